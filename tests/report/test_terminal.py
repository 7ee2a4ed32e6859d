"""The tables of an evaluation in the terminal."""

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from jitlab.report.terminal import BEST_CELLS, MOST_COLUMNS, certificate_table, search_table
from tests.report.certificates import CERTIFICATE, searched, searches, whole_grid


def lines(table: Table | None) -> list[list[str]]:
    """Return the title and the cells of every row as they are shown."""
    assert table is not None
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table)
    shown = capture.get().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in shown if line[:1] in "│┃"
    ]
    title = itertools.takewhile(lambda line: not line.startswith("┏"), shown)
    return [[" ".join(" ".join(title).split())], *rows]


def test_the_figure_that_decides_comes_first_and_what_was_evaluated_last():
    assert lines(certificate_table(CERTIFICATE)) == [
        ["x"],
        ["metric", "mean ± spread"],
        ["fd_pixels", "0.060 ± 0.010"],
        ["seams", "1.100 ± 0.100"],
        ["weights", "ema0.99"],
        ["guidance scale", "1.5"],
        ["seeds", "3"],
    ]
    one = replace(CERTIFICATE, values={"fd_pixels": (0.05,), "seams": ()})
    assert [row[1] for row in lines(certificate_table(one))[1:4]] == ["value", "0.050", "–"]


def test_a_narrow_search_is_a_grid():
    figures = whole_grid(["raw", "ema0.9"], [1.0, 2.0])
    del figures["ema0.9", 1.0]
    assert lines(search_table(searched(figures))) == [
        ["search: fd_pixels by guidance scale"],
        ["weights", "1 (unguided)", "2"],
        ["raw", "5.000", "4.000"],
        ["ema0.9", "–", "4.010"],
    ]
    assert search_table(CERTIFICATE) is None


def test_a_wide_search_is_its_best_cells_and_the_unguided_one():
    scales = [1 + number / 10 for number in range(MOST_COLUMNS + 1)]
    figures = whole_grid(["raw"], scales)
    assert lines(search_table(searched(figures))) == [
        ["search: best fd_pixels of 10 cells"],
        ["weights", "guidance scale", "figure"],
        ["raw", "1.9", "4.010"],
        ["raw", "1.8", "4.040"],
        ["raw", "1.7", "4.090"],
        ["raw", "1.6", "4.160"],
        ["raw", "1.5", "4.250"],
        ["raw", "1 (unguided)", "5.000"],
    ]
    del figures["raw", scales[-1]]
    assert len(lines(search_table(searched(figures)))[1]) == 1 + MOST_COLUMNS


@given(searches(), st.from_regex(r"\[/?[a-z]{1,6}\][a-z\[\]]{0,6}", fullmatch=True))
@settings(max_examples=30)
def test_markup_is_shown_as_it_is_and_the_winner_always(figures, markup):
    certificate = searched(figures, name=markup, metric=markup, values={markup: (1.0,)})
    title, _, metric, weights, *_ = lines(certificate_table(replace(certificate, weights=markup)))
    assert (title, metric[0], weights[1]) == ([markup], markup, markup)
    text = lines(search_table(certificate))
    wide = len({scale for _, scale in figures}) > MOST_COLUMNS
    assert text[0][0].startswith(("search: best " if wide else "search: ") + markup)
    assert len(text) <= 2 + (BEST_CELLS + 1 if wide else len({weights for weights, _ in figures}) + TALL)


TALL = 12
"""Lines that names with breaks in them may add."""
