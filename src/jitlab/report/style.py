"""The report's look: one light page, readable at any width, with nothing from outside."""

CSS = """
:root { --ink: #1d2330; --soft: #5b6470; --line: #e3e6ea; --paper: #fff; --wash: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 48px 24px 72px; }
h1 { font-size: 30px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; margin: 4px 0 12px;
  max-width: 30em; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 20px; line-height: 1.3; font-weight: 650; margin: 56px 0 4px; }
p { margin: 0 0 12px; max-width: 46em; overflow-wrap: anywhere; }
a { color: #1f5fc4; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .875em; }
pre { background: var(--wash); border-radius: 6px; padding: 12px 16px; overflow-x: auto; line-height: 1.45;
  margin: 8px 0 12px; }
.kicker, .soft, figcaption, .notes { color: var(--soft); font-size: 14px; }
.kicker { margin: 0; }
header p { max-width: none; }
.banner { background: #fdf4e3; border-left: 4px solid #d9931a; border-radius: 4px; padding: 14px 18px;
  margin: 24px 0; }
.banner p { margin: 0 0 6px; }
.banner pre { background: #fff8; margin: 0; white-space: pre-wrap; }
.banner ul { margin: 0 0 6px; padding-left: 20px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 24px 0 12px; }
table { border-collapse: collapse; font-size: 15px; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; vertical-align: bottom; font-weight: 500; color: var(--soft); font-size: 13px;
  line-height: 1.3; border-bottom: 1px solid #b9bfc7; padding: 6px 14px 6px 0; }
td { border-bottom: 1px solid var(--line); padding: 8px 14px 8px 0; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
td small { display: block; color: var(--soft); font-size: 12px; }
td.open { color: #8a5a00; min-width: 8em; }
td.arm { font-weight: 650; white-space: nowrap; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; background: var(--arm);
  margin-right: .5em; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; margin: 10px 0 4px; }
.panels, .samples { display: grid; gap: 20px 28px; margin-top: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); }
.samples { grid-template-columns: repeat(auto-fit, minmax(min(100%, max(165px, 100% / var(--columns) - 20px)), 1fr));
  gap: 20px; }
figure { margin: 0; min-width: 0; }
.panels figure { max-width: 460px; display: flex; flex-direction: column; justify-content: space-between; }
.panels.ordered figure { justify-content: flex-start; }
.panels figcaption { color: var(--ink); font-size: 14px; font-weight: 600; margin-bottom: 4px;
  overflow-wrap: anywhere; }
.panels figcaption small { display: block; color: var(--soft); font-weight: 400; font-size: 13px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg * { stroke-linejoin: round; }
.samples h3 { font-size: 16px; margin: 0 0 6px; overflow-wrap: anywhere; }
.samples img { display: block; width: 100%; max-width: 512px; height: auto;
  border-radius: 3px; background: var(--wash); }
.samples.many img { max-width: 256px; }
.samples figcaption { margin: 4px 0 14px; }
img.pixels { image-rendering: pixelated; }
.strips { display: grid; gap: 28px; align-items: start; margin: 16px 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.strips table { table-layout: fixed; max-width: 560px; }
.strips th { border: 0; padding: 2px 0; text-align: center; vertical-align: middle; }
.strips th:first-child { width: 60px; }
.strips th[scope="row"] { font-size: 11px; line-height: 1.25; text-align: left; padding-right: 4px; }
.strips thead th { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid #b9bfc7; }
.strips th[scope="rowgroup"] { text-align: left; color: var(--ink); font-size: 14px; font-weight: 600;
  padding-top: 10px; overflow-wrap: anywhere; }
.strips td { border: 0; padding: 2px 0; }
.strips img { display: block; width: 100%; height: auto; }
.maps { display: grid; gap: 28px 40px; margin-top: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.maps figure { overflow-x: auto; }
.maps figcaption { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; margin-bottom: 6px; }
.maps table { table-layout: fixed; border-collapse: separate; border-spacing: 3px; }
.maps th { border: 0; padding: 4px 8px; text-align: center; vertical-align: middle; overflow-wrap: anywhere; }
.maps th:first-child { text-align: right; }
.maps td { border: 0; border-radius: 4px; padding: 12px 6px; text-align: center; vertical-align: middle;
  background: var(--wash); color: var(--soft); }
.maps td small { color: inherit; }
.maps td.open { border: 1px dashed #b9bfc7; color: #8a5a00; min-width: 0; padding: 11px 5px; }
.maps.search { grid-template-columns: 1fr; }
.search th:first-child { width: 104px; padding-left: 0; }
.search table { min-width: calc(88px + var(--columns) * 45px); }
.search td { padding: 8px 2px; }
.search td:empty { background: none; border: 1px dashed #cdd2d8; }
.search.fine table { border-spacing: 1px; min-width: calc(104px + var(--columns) * 13px); }
.search.fine th { white-space: nowrap; overflow: visible; text-align: left; padding: 4px 0; }
.search.fine th:first-child { white-space: normal; text-align: right; padding-right: 8px; }
.search.fine td { padding: 0; height: 34px; border-radius: 2px; font-size: 13px; }
.search.fine td[style]:empty { border: 0; }
.scale { display: grid; grid-template-columns: repeat(3, auto); justify-content: space-between; max-width: 320px;
  font-size: 13px; color: var(--soft); margin-top: 8px; font-variant-numeric: tabular-nums; }
.scale .bar { grid-column: 1 / -1; height: 12px; border-radius: 3px; }
.curves.legend { margin-top: 32px; }
.curves.panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); margin-bottom: 20px; }
.searched { margin: 28px 0; }
.warned small { overflow-wrap: anywhere; }
tr.warned td { padding-top: 0; border-bottom: 1px solid var(--line); }
figure.grid img { display: block; width: 100%; max-width: 768px; height: auto; border-radius: 3px; }
.facts { display: grid; gap: 16px 32px; margin: 28px 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 160px), 1fr)); }
.facts div { border-top: 2px solid var(--ink); padding-top: 8px; overflow-wrap: anywhere; }
.facts span, .facts small { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.facts div:first-child { grid-column: span 2; }
.facts b { display: block; font-size: 26px; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums; }
.facts-table td { overflow-wrap: anywhere; vertical-align: baseline; }
.facts-table { margin: 8px 0 12px; }
.facts-table th { width: 15em; vertical-align: baseline; padding: 8px 14px 8px 0;
  border-bottom: 1px solid var(--line); }
code.hash { overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); padding: 10px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary .soft { margin-left: .6em; }
.finals { columns: 300px; column-gap: 32px; margin: 12px 0; padding: 0; list-style: none; font-size: 13px;
  font-variant-numeric: tabular-nums; }
.finals li { display: flex; justify-content: space-between; gap: 12px; break-inside: avoid;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
ul.notes { padding-left: 18px; margin: 8px 0; max-width: 60em; }
table.metrics { max-width: 780px; }
.metrics td small { max-width: 48em; }
@media (max-width: 700px) { .differs { display: none; } .facts div:first-child { grid-column: auto; }
  .search th:first-child { width: 88px; font-size: 12px; } .search td { font-size: 13px; }
  .facts-table th { width: 9em; }
  main { padding: 24px 16px 48px; } h1 { font-size: 24px; }
  h2 { margin-top: 40px; } }
/* White figures on cells that a printer leaves white would be gone. */
.maps td, .dot, .banner, .bar { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
@media print { main { padding: 0; } figure, .banner, tbody { break-inside: avoid; } }
"""
