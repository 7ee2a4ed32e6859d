"""The search as heat map, curves and table: every figure in its place, and nothing where nothing was looked at."""

import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given, settings

from jitlab.report.certificate import Searched
from jitlab.report.closing import figure_text
from jitlab.report.search_views import MOST_FIGURES, NEAR, every_cell, search_curves, search_map, search_text
from jitlab.report.searched import found
from tests.report.certificates import CERTIFICATE, searched, searches, whole_grid
from tests.report.test_layout import luminance

TENTHS = [round(1 + tenth / 10, 1) for tenth in range(31)]


def rows(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each row's name with the attributes and the visible words of its cells."""
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    lines = []
    for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
        name = unescape(re.findall(r'<th scope="row">(.*?)</th>', row, re.DOTALL)[0])
        cells = re.findall(r"<td([^>]*)>(.*?)</td>", row, re.DOTALL)
        lines.append((name, [(unescape(kind), re.sub(r"<[^>]*>", " ", inner)) for kind, inner in cells]))
    return lines


@given(searches())
@settings(max_examples=40, deadline=None)
def test_every_figure_stands_in_its_place_and_places_that_were_not_looked_at_are_empty(figures):
    certificate = searched(figures)
    cells = found(certificate)
    assert cells is not None
    text = search_map(certificate, "caption")
    shown = rows(text)
    assert tuple(name for name, _ in shown) == cells.weights
    colored = []
    for weights, line in shown:
        assert len(line) == len(cells.scales)
        for scale, (attributes, words) in zip(cells.scales, line, strict=True):
            if (weights, scale) not in figures:
                assert (attributes, words) == ("", "")
                continue
            value = figures[weights, scale]
            assert f"{weights}, guidance scale {scale:g}: {figure_text(value)}" in attributes
            assert ("★" in words) == ((weights, scale) == cells.winner)
            assert ("○" in words) == (scale == 1)
            assert (figure_text(value) in words) == (len(cells.scales) <= MOST_FIGURES)
            colored.append((value, luminance(re.findall("background: (#[0-9a-f]{6})", attributes)[0])))
    lightness = [light for _, light in sorted(colored, key=lambda pair: (pair[0], -pair[1]))]
    assert lightness == sorted(lightness, reverse=True)


def test_scales_of_the_protocol_that_no_weights_were_looked_at_keep_their_columns():
    figures = whole_grid(["ema0.9"], [1.0, 2.0, 4.0])
    certificate = searched(figures, protocol={"search_scales": [1.0, 2.0, 3.0, 4]})
    assert [words.split() for _, words in rows(search_map(certificate, ""))[0][1]] == [
        ["5.000", "○"],
        ["4.000", "★"],
        [],
        ["8.000"],
    ]
    assert "3 of 4 cells, coarse to fine" in search_text(certificate)
    others: list[object] = ["1:4:1", [None], [float("inf")], {}, []]
    for other in others:
        without = replace(certificate, protocol={"search_scales": other})
        assert len(rows(search_map(without, ""))[0][1]) == 3
        assert "all 3 cells" in search_text(without)


def test_a_fine_map_has_few_labels_and_colours_that_end_at_four_times_the_least():
    figures = whole_grid(["ema0.9", "ema0.99"], TENTHS) | {("raw", scale): 300.0 for scale in TENTHS}
    text = search_map(searched(figures), "fid")
    labels = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert len(labels) == 31
    assert [label for label in labels if label] == ["1", "1.4", "1.8", "2.2", "2.6", "3", "3.4", "3.8"]
    assert "≥ 16.00" in text
    assert "≥" not in search_map(searched(whole_grid(["raw"], TENTHS)), "fid")
    # What is far above does not take the colours from the rest.
    backgrounds = {re.findall("#[0-9a-f]{6}", attributes)[0] for attributes, _ in rows(text)[0][1]}
    assert len(backgrounds) > 10


def test_figures_close_to_each_other_look_alike():
    near = search_map(searched({("raw", 1.0): 5.0, ("raw", 2.0): 5.1}), "")
    (pale, _), (other, _) = rows(near)[0][1]
    light = [luminance(re.findall("#[0-9a-f]{6}", attributes)[0]) for attributes in (pale, other)]
    assert 0 < light[0] - light[1] < 0.1


def test_a_figure_that_is_not_finite_is_told_from_a_place_that_was_not_looked_at():
    for scales, shown in (([1.0, 2.0], "not finite"), (TENTHS, "!")):
        figures = whole_grid(["raw"], scales) | {("raw", 1.0): float("inf")}
        attributes, words = rows(search_map(searched(figures), ""))[0][1][0]
        assert words == shown or words.split() == [*shown.split(), "○"]
        assert 'class="open"' in attributes
        assert "not finite" in attributes


@given(searches(8))
@settings(max_examples=8, deadline=None)
def test_curves_are_drawn_of_any_search(figures):
    certificate = searched(figures)
    text = search_curves(certificate)
    scales = {scale for _, scale in figures}
    assert bool(text) == (len(scales) > 1)
    assert "<b>" not in text
    least = min(figures.values())
    far = least > 0 and max(figures.values()) > NEAR * least
    assert text.count("<svg") == (0 if len(scales) == 1 else 2 if far else 1)


def test_the_second_panel_is_near_the_least_and_says_what_lies_above():
    figures = {("raw", scale): 4.0 + 4 * (scale - 2.0) ** 2 for scale in TENTHS}
    whole, near, _ = search_curves(searched(figures)).split("</figure>")
    assert "The axis ends at 4 times the least figure; 3 of 31 lie above." in whole
    assert (
        f"1.3 times the least figure; {sum(value > NEAR * 4.0 for value in figures.values())} of 31 lie above" in near
    )
    # Unguided images are far from the least.
    assert ("unguided" in whole, "unguided" in near) == (True, False)


def test_without_a_search_or_a_figure_there_is_nothing_to_draw():
    empty = replace(CERTIFICATE, search=Searched(10, 0, True, ()))
    other = replace(searched({("raw", 1.0): 1.0, ("raw", 2.0): 2.0}), metric="fid")
    for certificate in (CERTIFICATE, empty, other):
        assert search_map(certificate, "") == search_curves(certificate) == ""
    assert every_cell(CERTIFICATE) == every_cell(empty) == ""
    assert "Nothing was searched" in search_text(CERTIFICATE)


def test_every_cell_is_listed_best_first_with_all_that_it_has():
    figures = {("raw", 1.0): 3.0, ("raw", 2.0): float("nan"), ("ema0.9", 1.0): 2.0, ("ema0.9", 2.0): 4.0}
    certificate = searched({**figures, ("raw", 2.0): 9.0})
    assert certificate.search is not None
    cells = [replace(cell, metrics={**cell.metrics, "seams": 1.25}) for cell in certificate.search.cells]
    cells[1] = replace(cells[1], metrics={"seams": 1.5})
    text = every_cell(replace(certificate, search=replace(certificate.search, cells=tuple(cells))))
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)][1:]
    assert lines == [
        ["ema0.9", "1", "2.000", "1.250"],
        ["raw", "1", "3.000", "1.250"],
        ["ema0.9", "2", "4.000", "1.250"],
        ["raw", "2", "–", "1.500"],
    ]


@pytest.mark.parametrize("winner", [("ema0.9", 2.0), ("ema0.9", 7.0)])
def test_what_guidance_is_worth_is_told_on_the_same_images_and_weights(winner):
    figures = whole_grid(["ema0.9", "raw"], [1.0, 2.0])
    cells = found(searched(figures, weights=winner[0], guidance_scale=winner[1]))
    assert cells is not None
    assert cells.best == figures.get(winner)
    assert cells.unguided == figures["ema0.9", 1.0]
