import pytest

from jitlab.config.axes import places, read_axes
from tests.config.conftest import refused


def test_a_place_is_read_from_the_settings():
    axes = read_axes("q", {"x": "objective.time_mu", "lines": "arm"})
    assert places(axes, {"a": {"objective.time_mu": -0.4}}) == {"a": {"x": -0.4, "lines": "a"}}
    assert read_axes("q", None) == {}


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        (5, "axes = 5", "rows: SETTING"),
        ({"rows": "arm"}, "axes = ", "columns: SETTING"),
        ({"x": "objective.time_m"}, "axes.x = 'objective.time_m'", "did you mean 'objective.time_mu'?"),
    ],
)
def test_malformed_axes_are_named(content, where, says):
    with refused(f"q: {where}", says):
        read_axes("q", content)
