"""The page of one evaluation: the figure, what it rests on, and nothing that runs or loads."""

import contextlib
import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jitlab.errors import UserError
from jitlab.report.certificate import CERTIFICATE_FILE, Certificate, write_certificate
from jitlab.report.evaluation_page import GRID, PAGE_FILE, write_page
from jitlab.report.glossary import meaning, title
from tests.report.certificates import CERTIFICATE, TEXTS, searched, searches, whole_grid
from tests.report.test_render import HOSTILE, HOSTILE_METRIC, Page

SAME_FOLDER = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def page_of(folder: Path, certificate: Certificate) -> Page:
    write_certificate(folder / CERTIFICATE_FILE, certificate)
    return Page(write_page(folder).read_text(encoding="utf-8"))


def test_the_page_tells_the_figure_and_all_that_it_rests_on(tmp_path):
    figures = whole_grid(["ema0.9", "ema0.99"], [1.0, 1.5, 2.0])
    certificate = searched(figures, warnings=("few images",))
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / GRID)
    page = page_of(tmp_path, certificate)
    for wanted in (
        "Fréchet distance of pixels features 0.060 ± 0.010 1,000 images at each seed",
        "mean ± sample standard deviation over 3 seeds",
        "weights ema0.9 guidance scale 2 unguided 5.000 same weights, on the search’s 500 images guided there: 4.000",
        "seams Squared differences of pixels",
        "1.100 ± 0.100 1.100, 1.000, 1.200",
        "Warnings few images",
        "500 images each (seed 1,000,000); all 6 cells",
        "feature_ weights_ sha256 none",
        "0.1, 1.0",
        certificate.protocol_hash,
        "only figures under the same hash",
        "checkpoint step 600",
        "ab" * 32,
        "CPU, 2 threads",
        "torch 2.15",
    ):
        assert wanted in page.text
    # The metric that decides comes first.
    assert page.text.index("fd_ pixels") < page.text.index("seams Squared")
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "a"})
    text = (tmp_path / PAGE_FILE).read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", text)
    assert all((attributes.get("src") or "data:image/").startswith("data:image/") for _, attributes in page.tags)


def test_without_search_samples_or_warnings_nothing_is_made_of_them(tmp_path):
    page = page_of(tmp_path, replace(CERTIFICATE, values={"fid": (4.4,)}, metric="fid", protocol={}))
    assert "FID 4.400 one seed, so without a spread" in page.text
    assert "Nothing was searched" in page.text
    assert "unguided" not in page.text
    for absent in ("Samples", "Warnings", "images"):
        assert absent not in page.text.replace("training images", "")
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "svg"})


def test_an_unguided_winner_is_its_own_unguided_figure(tmp_path):
    page = page_of(tmp_path, replace(CERTIFICATE, guidance_scale=1.0))
    assert "unguided the same" in page.text


def test_a_damaged_grid_is_said_and_the_rest_stands(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / GRID).write_bytes(b"no picture")
    page = page_of(tmp_path, CERTIFICATE)
    assert "grid.png cannot be read" in page.text
    assert "Protocol hash" in page.text


def test_only_inceptions_distance_is_called_fid():
    assert title("fid") == "FID"
    for name in ("fd_pixels", "fd_timm_vit_small_patch14_dinov2.lvd142m"):
        assert "FID" not in title(name)
        assert name.removeprefix("fd_") in meaning(f"eval/{name}")


@pytest.mark.parametrize(
    "name",
    ["fid", "kid", "kid_std", "inception_score", "inception_score_std", "precision", "recall", "density", "coverage"],
)
def test_every_metric_of_an_evaluation_is_explained(name):
    assert meaning(f"eval/{name}").endswith(".")
    assert meaning(f"eval/{name}") != meaning(f"eval/{name}_std")


@given(searches(1), TEXTS, st.dictionaries(TEXTS, st.lists(st.floats(-1e9, 1e9), max_size=3).map(tuple), max_size=3))
@SAME_FOLDER
def test_any_texts_are_only_text(tmp_path, figures, text, values):
    certificate = searched(
        figures,
        name=text,
        checkpoint={text: text},
        values=values,
        protocol={text: [text, None, 1.5], "images": text},
        warnings=(text, text),
        versions={text: text},
        hardware=text,
    )
    page = page_of(tmp_path, certificate)
    plain = page_of(tmp_path, searched({("raw", 1.0): 1.0}))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"li", "ul"}
    assert page.text.count("Certificate of an evaluation") == 1


def test_a_script_in_every_text_does_not_run(tmp_path):
    certificate = searched(
        {(HOSTILE, 1.0): 1.0, (HOSTILE, 2.0): 2.0},
        metric=HOSTILE_METRIC,
        name=HOSTILE,
        values={HOSTILE_METRIC: (1.0, 2.0)},
        warnings=(HOSTILE,),
    )
    page = page_of(tmp_path, certificate)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert HOSTILE in page.text


def paths(content: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at, *(path for key, value in below for path in paths(value, (*at, key)))]


GOOD = searched(whole_grid(["raw"], [1.0]), warnings=("few",))
JSON: st.SearchStrategy[object] = st.sampled_from(
    [None, True, 3, -1, 10**400, 1.5, float("nan"), "", "text", [], [[]], {}, {"a": None}, ["a", 1]]
)


@given(st.data())
@settings(SAME_FOLDER, max_examples=80)
def test_a_certificate_with_any_value_changed_is_refused_or_shown(tmp_path, data):
    path = tmp_path / CERTIFICATE_FILE
    write_certificate(path, GOOD)
    content = json.loads(path.read_text())
    place = data.draw(st.sampled_from([path for path in paths(content) if path]))
    changed = copy.deepcopy(content)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = data.draw(JSON)
    path.write_text(json.dumps(changed))
    with contextlib.suppress(UserError):
        assert write_page(tmp_path).read_text(encoding="utf-8").endswith("</html>\n")


def test_without_a_certificate_there_is_no_page(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        write_page(tmp_path)
    assert not (tmp_path / PAGE_FILE).exists()
