import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlab.errors import UserError
from jitlab.evaluation.search import Cell, Search, coarse_to_fine, read_search

KNOWN = ["raw", "ema0.9999", "ema0.9996"]
DEFAULT = Search(["ema0.9999"], [2.9])


def test_the_papers_search():
    found = read_search(["ema=all", "cfg=1.0:4.0:0.1"], KNOWN, DEFAULT)
    assert found.weights == ["ema0.9999", "ema0.9996"]
    assert found.scales == [float(f"{number / 10:.1f}") for number in range(10, 41)]
    assert len(found.cells) == 62


def test_what_is_not_searched_is_the_default_and_the_unguided_scale_is_always_there():
    assert read_search([], KNOWN, DEFAULT) == Search(["ema0.9999"], [1.0, 2.9])
    assert read_search(["ema=raw,0.9996"], KNOWN, DEFAULT).weights == ["raw", "ema0.9996"]
    assert read_search(["cfg=3,2"], KNOWN, DEFAULT).scales == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("emma=all", "expected ema=all or cfg="),
        ("ema", "expected ema=all or cfg="),
        ("sampler.steps=3", "sampler settings stand before --search"),
        ("ema=0.999", "ema=0.999: 0.999: no such weights; did you mean 'ema0.9999'"),
        ("cfg=1:2", "expected 1.0:4.0:0.1 or 1,1.5,2"),
        ("cfg=", "expected 1.0:4.0:0.1 or 1,1.5,2"),
        ("cfg=4:1:0.1", "holds no scale"),
        ("cfg=1:4:0", "holds no scale"),
        ("cfg=1:4:0.0001", "more than 1000 scales"),
        ("cfg=1:1e300:1", "more than 1000 scales"),
        ("cfg=1:1e999999:1", "more than 1000 scales"),
        ("cfg=1:inf:1", "more than 1000 scales"),
        ("cfg=0:9e999999:1e-999999", "more than 1000 scales"),
        ("cfg=1,1e400", "expected finite scales of 0 or more"),
        ("cfg=-1", "expected finite scales of 0 or more"),
        ("cfg=nan", "expected finite scales of 0 or more"),
    ],
)
def test_a_search_that_cannot_be_is_told_on_one_line(word, told):
    with pytest.raises(UserError) as caught:
        read_search([word], KNOWN, DEFAULT)
    assert told in str(caught.value)
    assert f"--search {word}" in str(caught.value)


def test_a_word_that_is_there_twice_is_refused():
    with pytest.raises(UserError, match="cfg is there twice"):
        read_search(["cfg=1", "cfg=2"], KNOWN, DEFAULT)


@given(st.integers(1, 60), st.data())
def test_coarse_to_fine_finds_the_least_of_values_that_fall_and_then_rise(count, data):
    scales = [1 + number / 10 for number in range(count)]
    search = Search(["a", "b"], scales)
    least = {weights: data.draw(st.integers(0, count - 1)) for weights in search.weights}
    asked = []

    def value(cells):
        asked.extend(cells)
        return [abs(scales.index(cell.scale) - least[cell.weights] + 0.1) for cell in cells]

    found = coarse_to_fine(search, value)
    assert len(asked) == len(set(asked)) == len(found)
    assert Cell("a", 1.0) in found
    for weights, place in least.items():
        best = min((cell for cell in found if cell.weights == weights), key=lambda cell: found[cell])
        assert best.scale == scales[place]
    assert len(found) <= 2 * (4 * count**0.5 + 3)
