"""The parts of the page: header, banner, table, runs, tracking. Every text from outside is escaped here."""

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from jitlab.report.closing import (
    NOTHING,
    ClosingRow,
    closing_rows,
    differs_text,
    duration_text,
    figure_text,
    gaps,
    problem,
)
from jitlab.report.glossary import meaning
from jitlab.report.records import Experiment, Run
from jitlab.report.verdict import arm_verdicts


def header(experiment: Experiment) -> str:
    """Return what was asked, where the question comes from, and when the runs ran."""
    times = [time for run in experiment.runs for time in run.times]
    seeds = max(len(experiment.of_arm(arm)) for arm in experiment.arms) if experiment.arms else 0
    facts = [
        experiment.source,
        f"{len(experiment.arms)} arms, {seeds} seed{'s' if seeds != 1 else ''}",
        date_range(min(times), max(times)) if times else "no metrics yet",
    ]
    return (
        f'<header><p class="kicker">{escape(experiment.experiment)}, scale {escape(experiment.scale)}</p>'
        f"<h1>{escape(experiment.question)}</h1>"
        f'<p class="soft">{escape(" · ".join(fact for fact in facts if fact))}</p></header>'
    )


def banner(experiment: Experiment) -> str:
    """Return which runs are not complete and why, and what complete ones lack; empty where all is well."""
    points = [(run, text) for run in experiment.runs if (text := problem(run))]
    for run in experiment.runs:
        if absent := gaps(experiment, run):
            points.append((run, f"complete, but did not log {', '.join(absent)}"))
    if not points:
        return ""
    listed = "".join(f"<li><b>{escape(run.name)}</b>: {escape(text)}</li>" for run, text in points)
    unfinished = sum(not run.complete for run in experiment.runs)
    lead = f"{unfinished} of {len(experiment.runs)} runs not complete." if unfinished else "Metrics are missing."
    again = ""
    if unfinished and experiment.command:
        again = f"<p>The same command goes on from there:</p><pre>{escape(experiment.command)}</pre>"
    return f'<div class="banner" role="status"><p><b>{lead}</b></p><ul>{listed}</ul>{again}</div>'


def results(experiment: Experiment) -> str:
    """Return the closing table with what its metrics mean."""
    rows = closing_rows(experiment)
    heads = [_head("arm"), _head(_differs_heading(experiment), "differs"), _head("seeds", "number")]
    heads += [_head(key, "number") for key in experiment.summary_metrics]
    if experiment.published:
        heads.append(_head(experiment.published.heading, "number"))
    heads += [_head("minutes per run", "number"), _head("images/s", "number"), _head("status")]
    body = "".join(_table_row(experiment, row) for row in rows)
    return (
        f'<section><h2>Result</h2><div class="wide"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_verdicts(experiment)}{_notes(experiment)}</section>"
    )


def runs(experiment: Experiment) -> str:
    """Return every run with its size, hardware, time, final metrics and configuration, folded."""
    return "<section><h2>Runs</h2>" + "".join(_run(experiment, run) for run in experiment.runs) + "</section>"


def tracking(experiment: Experiment) -> str:
    """Return how to open the same runs in MLflow and how to run the experiment again."""
    ui_command = experiment.ui_command or f"make ui EXP={experiment.experiment}"
    parts = [f"<p>Every curve and picture in MLflow:</p><pre>{escape(ui_command)}</pre>"]
    if experiment.link and experiment.link.startswith(("http://", "https://")):
        link = escape(experiment.link)
        parts.append(f'<p>While it runs, this opens the question’s charts: <a href="{link}">{link}</a></p>')
    if experiment.command:
        parts.append(f"<p>This report was made by:</p><pre>{escape(experiment.command)}</pre>")
    return f"<section><h2>Look closer</h2>{''.join(parts)}</section>"


def legend(experiment: Experiment, shown: Iterable[str]) -> str:
    """Return the colours of the arms that a group of figures shows; `shown` are run names."""
    names = set(shown)
    arms = [arm for arm in experiment.arms if any(run.name in names for run in experiment.of_arm(arm))]
    absent = [arm for arm in experiment.arms if arm not in arms]
    marks = "".join(f"<span>{dot(experiment, arm)}{escape(arm)}</span>" for arm in arms)
    if absent and arms:
        marks += f'<span class="soft">no curve: {escape(", ".join(absent))}</span>'
    return f'<div class="legend">{marks}</div>'


def dot(experiment: Experiment, arm: str) -> str:
    """Return the arm's colour mark."""
    return f'<span class="dot" style="--arm: {experiment.colors[arm]}"></span>'


def date_range(first: float, last: float) -> str:
    """Return two moments (seconds since 1970) as `2026-01-31, 08:15 to 08:17 UTC`."""
    start, end = (datetime.fromtimestamp(moment, UTC) for moment in (first, last))
    if start.date() == end.date():
        return f"{start:%Y-%m-%d, %H:%M} to {end:%H:%M} UTC"
    return f"{start:%Y-%m-%d, %H:%M} to {end:%Y-%m-%d, %H:%M} UTC"


def _head(text: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<th scope="col"{marked}>{escape(text).replace("_", "_<wbr>")}</th>'


def _differs_heading(experiment: Experiment) -> str:
    return _only_field(experiment) or "what differs"


def _only_field(experiment: Experiment) -> str | None:
    fields = {field for arm in experiment.arms for field in experiment.differs.get(arm, {})}
    return fields.pop() if len(fields) == 1 else None


def _table_row(experiment: Experiment, row: ClosingRow) -> str:
    field = _only_field(experiment)
    differs = str(experiment.differs.get(row.arm, {}).get(field, NOTHING)) if field else row.differs or NOTHING
    numbers = [row.seeds, *(row.metrics[key] for key in experiment.summary_metrics)]
    if experiment.published:
        numbers.append(row.published or NOTHING)
    numbers += [row.minutes, row.images_per_second]
    status = "" if row.status == "complete" else ' class="open"'
    return (
        f'<tr><td class="arm">{dot(experiment, row.arm)}{escape(row.arm)}</td>'
        f'<td class="differs">{escape(differs)}</td>'
        + "".join(f'<td class="number">{_number(number)}</td>' for number in numbers)
        + f"<td{status}>{escape(row.status)}</td></tr>"
    )


def _number(text: str) -> str:
    figure, parenthesis, step = text.partition(" (")
    return escape(figure) + (f"<small>({escape(step)}</small>" if parenthesis else "")


def _verdicts(experiment: Experiment) -> str:
    lines = "".join(
        f"<li>{dot(experiment, arm)}<b>{escape(arm)}</b>: {escape(found.line)}</li>"
        for arm, found in arm_verdicts(experiment).items()
    )
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _notes(experiment: Experiment) -> str:
    known = [(key, meaning(key)) for key in experiment.summary_metrics if meaning(key)]
    notes = [f"<code>{escape(key)}</code>: {escape(text)}" for key, text in known]
    if any(len(experiment.of_arm(arm)) > 1 for arm in experiment.arms):
        notes.append("±: sample standard deviation over the complete seeds of an arm.")
    return '<ul class="notes">' + "".join(f"<li>{note}</li>" for note in notes) + "</ul>" if notes else ""


def _run(experiment: Experiment, run: Run) -> str:
    facts = [
        problem(run) or "complete",
        f"{run.step:,} of {run.steps:,} steps" if run.steps and run.complete else "",
        f"{run.parameters:,} parameters" if run.parameters else "",
        run.hardware or "",
        duration_text(run.seconds) if run.seconds else "",
    ]
    text = escape(" · ".join(fact for fact in facts if fact))
    head = f'{dot(experiment, run.arm)}<b>{escape(run.name)}</b><span class="soft">{text}</span>'
    inside = [f'<p class="soft">Seed {run.seed}. {escape(differs_text(experiment, run.arm))}</p>']
    inside.append(_finals(run))
    inside.append(f"<pre>{escape(run.config)}</pre>" if run.config else "<p>No config.yaml in its folder.</p>")
    return f"<details><summary>{head}</summary>{''.join(inside)}</details>"


def _finals(run: Run) -> str:
    if not run.curves:
        return "<p>No metrics logged.</p>"
    items = (
        f"<li><span>{escape(key)}</span><span>{figure_text(value)}</span></li>"
        for key, value in sorted(run.final().items())
    )
    return f'<ul class="finals">{"".join(items)}</ul>'
