import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlab.report.ranking import Ranked, conclusions, ranking, spread, twins

NUMBERS = st.floats(0, 1e3)
FIGURES = st.lists(NUMBERS, min_size=1, max_size=4)


def test_the_lowest_mean_is_first_and_places_are_counted():
    values = {"b": (2.0, 2.1), "a": (1.0, 1.1), "c": (9.0, 9.1)}
    assert ranking(values) == (Ranked(1, "a"), Ranked(2, "b"), Ranked(3, "c"))


def test_a_difference_within_the_spread_is_no_win():
    # Standard deviations of 0.1 each: 0.14 together.
    values = {"a": (1.0, 1.1, 1.2), "b": (1.1, 1.2, 1.3), "c": (1.3, 1.4, 1.5)}
    assert ranking(values) == (Ranked(1, "a"), Ranked(1, "b"), Ranked(3, "c"))
    (line,) = conclusions(values, "fid")
    assert "a and b differ by 0.100 in fid" in line
    assert "0.141" in line
    assert "neither is better" in line
    (line,) = conclusions({name: values[name] for name in "ac"}, "fid")
    assert line == "a has the lowest fid, 1.100 ± 0.100: 0.300 below c"


def test_one_seed_gives_an_order_and_a_warning():
    values = {"a": (1.0,), "b": (1.01,)}
    assert [ranked.rank for ranked in ranking(values)] == [1, 2]
    lines = list(conclusions(values, "fid"))
    assert lines[0].startswith("a has the lowest fid")
    assert lines[1].startswith("one seed each: --seeds 3")
    assert list(conclusions(values | {"b": (1.1, 1.2)}, "fid"))[-1].startswith("one seed of a: --seeds 3")


def test_one_name_is_not_the_best_of_anything():
    assert list(conclusions({"a": (1.0,)}, "fid")) == []
    assert list(conclusions({}, "fid")) == []


def test_what_is_not_finite_is_last():
    values = {"lost": (math.nan, 1.0), "gone": (math.inf,), "a": (1.0, 1.2)}
    assert ranking(values) == (Ranked(1, "a"), Ranked(2, "lost"), Ranked(2, "gone"))
    assert next(conclusions(values, "fid")).endswith("that of lost is not finite")
    assert list(conclusions({"lost": (math.nan,), "gone": (math.inf,)}, "fid")) == ["no fid is finite: nothing is best"]


def test_the_spread_is_that_of_a_difference():
    assert spread((1.0, 3.0), (10.0, 14.0)) == pytest.approx(math.sqrt(2 + 8))
    assert spread((1.0, 3.0), (10.0,)) == pytest.approx(math.sqrt(2))
    assert spread((1.0,), (10.0,)) == 0


@given(values=st.dictionaries(st.sampled_from("abcdef"), FIGURES, min_size=1))
def test_ranks_rise_with_the_means_and_the_first_of_a_rank_stands_for_it(values):
    order = ranking(values)
    assert sorted(ranked.name for ranked in order) == sorted(values)
    means = [math.fsum(values[ranked.name]) / len(values[ranked.name]) for ranked in order]
    assert means == sorted(means)
    first = 0
    for place, ranked in enumerate(order):
        apart = spread(values[order[first].name], values[ranked.name])
        if ranked.rank == order[first].rank:
            assert means[place] - means[first] <= apart
        else:
            assert means[place] - means[first] > apart
            assert ranked.rank == place + 1
            first = place


def test_figures_that_agree_to_the_last_digit_are_found():
    values = {"a": (0.1, 0.2), "b": (0.1, 0.2), "c": (0.1, 0.2000000001)}
    assert list(twins(values)) == [("a", "b")]
