"""The page and the summary: complete, self-contained, honest about what went wrong."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from jitlab.errors import UserError
from jitlab.report.collect import collect
from jitlab.report.pictures import samples
from jitlab.report.render import summary, write_report
from jitlab.report.style import CSS
from tests.report.conftest import ARMS, LINK, entry, lines_of, write_experiment, write_run

HOSTILE = '"><script>alert(1)</script>$\\frac{&amp;'
# As far as a certificate's reader lets it through.
HOSTILE_METRIC = f"fd_{HOSTILE}"


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def banner_of(folder: Path) -> str:
    text = write_report(folder).read_text(encoding="utf-8")
    return Page(text.split('role="status">')[1].split("<section>")[0]).text


def test_nothing_is_loaded_from_outside(folder):
    text = write_report(folder).read_text()
    for tag, attributes in Page(text).tags:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/", "#")) or value == LINK or not value
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_a_complete_experiment_shows_all_and_warns_of_nothing(folder):
    page = page_of(folder)
    assert 'role="status"' not in (folder / "report.html").read_text()
    for wanted in (
        "Which of x, v and eps",
        "arXiv:2511.13720",
        "0.060",
        "8.400",
        "1,234,567",
        "make ui EXP=noise_vs_x",
    ):
        assert wanted in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images if image["alt"]] == [
        f"Sample grid of {arm}, {weights}, step 600" for arm in ARMS for weights in ("EMA 0.995", "raw weights")
    ]
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    assert all(attributes["aria-label"] for tag, attributes in page.tags if tag == "svg")


def test_the_report_of_incompressible_pictures_stays_small(folder):
    assert write_report(folder).stat().st_size < 1_500_000


def test_failed_killed_running_and_missing_runs_are_named_with_their_reason(folder):
    write_experiment(folder, arms=["x", "v", "eps", "late"])
    write_run(folder, "v", lines_of(1.3, 100), status="failed", reason="non-finite loss at step 112", step=111)
    write_run(folder, "eps", [], grid=False, status="killed", reason="Ctrl-C", step=0)
    write_run(folder, "x", lines_of(0.1, 200), status="running", step=250)
    text = banner_of(folder)
    assert "4 of 4 runs not complete" in text
    assert "v : failed at step 111 of 600: non-finite loss at step 112" in text
    assert "eps : killed at step 0 of 600: Ctrl-C" in text
    assert "x : at step 250 of 600, still running or cut off" in text
    assert "late : has not started" in text
    assert "jitlab run noise_vs_x --scale digits" in text


def test_a_complete_run_without_a_metric_of_the_table_is_named(folder):
    write_run(folder, "v", [entry(600, **{"train/v_mse": 1.0})])
    assert "v : complete, but did not log eval/fd_pixels" in banner_of(folder)


def test_an_experiment_that_has_only_just_started_has_a_report(tmp_path):
    page = page_of(write_experiment(tmp_path, link=None, command=None))
    assert "3 of 3 runs not complete" in page.text
    assert "No run has logged a metric yet" in page.text
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "status.json").write_text('{"arm": "x", "seed": 0, "status": "running"}')
    assert "x : at step 0, still running" in banner_of(tmp_path)


def test_pictures_side_by_side_are_of_one_seed(folder):
    write_experiment(folder, seeds=2)
    for arm in ARMS:
        write_run(folder, f"{arm}-s1", lines_of(1.0))
    for path in (folder / "x" / "samples").iterdir():
        path.unlink()
    alts = [attributes["alt"] or "" for tag, attributes in page_of(folder).tags if tag == "img"]
    assert len(alts) == 6
    assert all("seed 1" in alt for alt in alts)


@pytest.mark.parametrize(("arms", "kind", "columns"), [(3, "samples", 3), (4, "samples", 4), (9, "samples many", 3)])
def test_grids_stand_in_full_rows(tmp_path, arms, kind, columns):
    write_experiment(tmp_path, arms=[f"a{number}" for number in range(arms)])
    assert f'<div class="{kind}" style="--columns: {columns}">' in samples(collect(tmp_path))


def test_a_narrow_page_and_print_keep_what_counts(folder):
    page = page_of(folder)
    # Hidden on a narrow page, where it would push the figures out of sight: told again among the runs.
    assert ".differs { display: none; }" in CSS
    assert [tag for tag, attributes in page.tags if attributes.get("class") == "differs"] == ["th"] + ["td"] * len(ARMS)
    assert page.text.count("objective.prediction = eps") == 1
    # White figures on dark cells, of which browsers print no background unless they are told.
    (rule,) = (rule for rule in CSS.split("}") if " print-color-adjust: exact" in rule)
    assert ".maps td" in rule


def test_small_grids_keep_their_pixels_square_and_large_pictures_are_smooth(folder):
    Image.effect_noise((512, 512), 50).save(folder / "v" / "samples" / "step000600-raw.png")
    images = [attributes for tag, attributes in page_of(folder).tags if tag == "img"]
    smooth = [image["alt"] for image in images if image.get("class") != "pixels"]
    assert smooth == ["Sample grid of v, raw weights, step 600"]
    rules = [rule for rule in CSS.split("}") if "image-rendering" in rule]
    assert [rule.split("{")[0].strip() for rule in rules] == ["img.pixels"]


def test_a_damaged_picture_is_said_and_the_rest_stands(folder):
    path = folder / "v" / "samples" / "step000600-raw.png"
    path.write_bytes(path.read_bytes()[:5000])
    page = page_of(folder)
    assert "step000600-raw.png cannot be read" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 5


def test_a_damaged_metrics_file_leaves_the_old_report(folder):
    before = write_report(folder).read_bytes()
    (folder / "x" / "metrics.jsonl").write_text("{\n" + entry(1, loss=1.0))
    with pytest.raises(UserError, match=r"x/metrics\.jsonl, line 1"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_a_hostile_text_is_only_text(folder):
    lines = [entry(1, **{f"eval/{HOSTILE}": 1.0, "eval/fd_pixels": 2.0})]
    write_run(folder, "hostile", lines, arm=HOSTILE, reason=HOSTILE, hardware=HOSTILE, status="failed")
    write_experiment(
        folder,
        question=HOSTILE,
        source=HOSTILE,
        name=HOSTILE,
        experiment=HOSTILE,
        scale=HOSTILE,
        command=HOSTILE,
        arms=[*ARMS, HOSTILE],
        differs={HOSTILE: {HOSTILE: HOSTILE}, "x": {"a": 1}},
        published={"metric": HOSTILE, "table": HOSTILE, "values": {HOSTILE: 1.0}},
        summary_metrics=[f"eval/{HOSTILE}"],
    )
    (folder / "hostile" / "config.yaml").write_text(HOSTILE)
    page = page_of(folder)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert HOSTILE in page.text


def test_a_link_that_is_no_web_address_is_no_link(folder):
    write_experiment(folder, link="javascript:alert(1)")
    assert not any(tag == "a" for tag, _ in page_of(folder).tags)


def test_writing_again_changes_nothing(folder):
    first = write_report(folder).read_bytes(), (folder / "summary.json").read_bytes()
    assert (write_report(folder).read_bytes(), (folder / "summary.json").read_bytes()) == first
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "experiment.json",
        "report.html",
        "summary.json",
    ]


def test_the_summary_is_strict_json_with_every_run(folder):
    write_experiment(folder, arms=[*ARMS, "late"])
    write_run(
        folder,
        "eps",
        [entry(1, **{"train/loss": float("nan"), "train/v_mse": float("inf")})],
        status="failed",
    )
    write_report(folder)

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads((folder / "summary.json").read_text(), parse_constant=refuse)
    assert content == summary(collect(folder))
    assert (content["experiment"], content["scale"]) == ("noise_vs_x", "digits")
    runs = {run["arm"]: run for run in content["runs"]}
    assert set(runs["x"]) == {"arm", "seed", "status", "metrics", "seconds"}
    assert runs["x"]["metrics"]["eval/fd_pixels"] == pytest.approx(0.06)
    assert runs["eps"]["metrics"] == {"train/loss": None, "train/v_mse": None}
    assert runs["late"] == {"arm": "late", "seed": 0, "status": "missing", "metrics": {}, "seconds": 0.0}


def test_the_table_marks_spread_and_published_figures(folder):
    values = {"x": 8.62, "v": 96.53, "eps": 372.38}
    write_experiment(folder, seeds=2, published={"metric": "eval/fid", "table": "Table 2 (a)", "values": values})
    for arm, final in ARMS.items():
        write_run(folder, f"{arm}-s1", lines_of(final * 1.1), grid=False)
    text = page_of(folder).text
    assert "8.820 ± 0.594" in text
    assert "published fid, Table 2 (a)" in text
    assert "372.38" in text
    assert "sample standard deviation" in text
