"""Denoising strips: every arm's under the others', cut at the right places, whatever is missing."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jitlab.report.collect import collect
from jitlab.report.render import write_report
from jitlab.report.strips import GAP_SHARE, LARGEST_CELL, read_strip, strips
from tests.report.conftest import ARMS, lines_of, write_experiment, write_run
from tests.report.test_render import HOSTILE, Page

TIMES = "0 0.2 0.6 1"


def write_strip(run: Path, samples: int = 2, cell: int = 20, times: str | None = TIMES) -> Path:
    """Write a strip whose cells are grey, each a level of its own."""
    count = len((times or TIMES).split())
    levels = np.arange(2 * samples * count, dtype=np.uint8).reshape(2 * samples, count) * 10
    pixels = levels.repeat(cell, axis=0).repeat(cell, axis=1)
    texts = PngImagePlugin.PngInfo()
    if times is not None:
        texts.add_text("t", times)
    (run / "samples").mkdir(exist_ok=True)
    path = run / "samples" / "step000600-strip.png"
    Image.fromarray(pixels).convert("RGB").save(path, pnginfo=texts)
    return path


@pytest.fixture
def stripped(folder):
    for arm in ARMS:
        write_strip(folder / arm)
    return folder


def page_of(folder):
    return Page(strips(collect(folder)))


def alts(page):
    return [attributes["alt"] for tag, attributes in page.tags if tag == "img"]


def test_every_sample_has_a_table_with_all_arms_under_each_other(stripped):
    text = strips(collect(stripped))
    tables = re.findall(r"<table>.*?</table>", text)
    assert len(tables) == 2
    for number, table in enumerate(tables, start=1):
        heads = re.findall(r'<th scope="col">(.*?)</th>', table)
        assert heads == TIMES.split()
        assert alts(Page(table)) == [
            f"{what}, sample {number}, of {arm} at t = 0, 0.2, 0.6, 1"
            for arm in ARMS
            for what in ("Noisy z", "Predicted x")
        ]
        assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["noisy z", "predicted x"] * len(ARMS)


def test_strips_are_no_sample_grids(stripped):
    run = collect(stripped).runs[0]
    assert [grid.weights for grid in run.last_grids()] == ["ema0.995", "raw"]
    assert run.strip is not None
    assert "strip weights" not in write_report(stripped).read_text()


@pytest.mark.parametrize("cell", [20, LARGEST_CELL, 2 * LARGEST_CELL])
def test_rows_are_cut_where_the_cells_are_and_stand_below_their_times(stripped, cell):
    strip = read_strip(collect(stripped).runs[0], write_strip(stripped / "x", samples=2, cell=cell))
    assert strip.times == ("0", "0.2", "0.6", "1")
    assert len(strip.samples) == 2
    for sample, pair in enumerate(strip.samples):
        for kind, row in enumerate(pair):
            size = min(cell, LARGEST_CELL)
            assert row.height == size
            assert row.width == 4 * (size + max(2, round(size * GAP_SHARE)))
            pixels = np.asarray(row)[size // 2, :, 0]
            centres = pixels[[int((place + 0.5) * row.width / 4) for place in range(4)]]
            assert centres.tolist() == [10 * (4 * (2 * sample + kind) + place) for place in range(4)]
            assert pixels[0] == 255


def test_an_experiment_without_strips_has_no_section_and_one_with_some_names_the_others(folder):
    assert strips(collect(folder)) == ""
    write_strip(folder / "v")
    page = page_of(folder)
    assert len(alts(page)) == 4
    assert "No strip: x, eps." in page.text


def test_damaged_strips_are_said_and_the_rest_stands(stripped):
    torn = stripped / "x" / "samples" / "step000600-strip.png"
    torn.write_bytes(torn.read_bytes()[:60])
    write_strip(stripped / "v", times=None)
    page = page_of(stripped)
    assert len(alts(page)) == 4
    assert page.text.count("cannot be read") == 2
    assert "v: step000600-strip.png cannot be read (its size does not fit its times)" in page.text


@pytest.mark.parametrize("times", ["", "0 1", "0 one 1", "0 0.3 0.6 0.9 1"])
def test_times_that_do_not_fit_the_picture_are_refused(stripped, times):
    path = write_strip(stripped / "x", samples=3)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("t", times)
    with Image.open(path) as strip:
        strip.crop((0, 0, 81, 120)).save(path, pnginfo=texts)
    with pytest.raises(ValueError, match=r"times|float"):
        read_strip(collect(stripped).runs[0], path)


def test_arms_of_other_time_grids_stand_in_a_table_of_their_own(stripped):
    write_strip(stripped / "eps", times="0 0.5 1")
    text = strips(collect(stripped))
    tables = re.findall(r"<table>.*?</table>", text)
    assert ["eps" in table for table in tables] == [False, False, True, True]
    assert re.findall(r'<th scope="col">(.*?)</th>', tables[2]) == ["0", "0.5", "1"]


def test_strips_under_each_other_are_of_one_seed(stripped):
    write_experiment(stripped, seeds=2)
    for arm in ARMS:
        write_strip(write_run(stripped, f"{arm}-s1", lines_of(1.0)))
    (stripped / "x" / "samples" / "step000600-strip.png").unlink()
    page = page_of(stripped)
    assert "One seed is shown" in page.text
    assert all(" of x-s1 " in alt or " of v-s1 " in alt or " of eps-s1 " in alt for alt in alts(page))


def test_points_are_one_sample_and_smooth_and_pixels_stay_squares(folder):
    write_strip(folder / "x", samples=1, cell=192)
    write_strip(folder / "v", samples=1, cell=32)
    images = [attributes for tag, attributes in page_of(folder).tags if tag == "img"]
    assert [image["alt"] for image in images][:2] == [
        f"{what} of x at t = 0, 0.2, 0.6, 1" for what in ("Noisy z", "Predicted x")
    ]
    assert [image.get("class") for image in images] == [None, None, "pixels", "pixels"]


def test_hostile_times_are_refused_and_hostile_names_only_text(folder):
    write_experiment(folder, arms=["x", HOSTILE])
    write_strip(folder / "x", times=f"0 {HOSTILE.split()[0]}")
    assert "<script" not in strips(collect(folder))
    assert f"No strip: {HOSTILE}, eps, v." in page_of(folder).text


def test_the_report_of_a_big_experiment_stays_sendable(folder):
    noise = np.random.default_rng(0).integers(0, 256, (6 * 256, 6 * 256, 3), dtype=np.uint8)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("t", "0 0.2 0.4 0.6 0.8 1")
    for arm in ARMS:
        Image.fromarray(noise).save(folder / arm / "samples" / "step000600-strip.png", pnginfo=texts)
    sources = [attributes["src"] or "" for tag, attributes in page_of(folder).tags if tag == "img"]
    assert len(sources) == 18
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as row:
            assert row.size == (6 * (LARGEST_CELL + round(LARGEST_CELL * GAP_SHARE)), LARGEST_CELL)
    assert sum(map(len, sources)) < 18 * 110_000
