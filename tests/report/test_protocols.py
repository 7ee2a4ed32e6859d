"""In what protocols differ is what their hashes see."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlab.report.protocols import differing, fact_text
from tests.report.certificates import CERTIFICATE

SCALARS = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0, 0.5]) | st.sampled_from(["", "1"])
PROTOCOLS = st.dictionaries(st.sampled_from("abc"), SCALARS | st.lists(SCALARS, max_size=2), max_size=3)


@given(st.lists(PROTOCOLS, min_size=1, max_size=3))
def test_protocols_differ_in_nothing_where_their_hashes_are_the_same(protocols):
    hashes = {replace(CERTIFICATE, protocol=protocol).protocol_hash for protocol in protocols}
    assert (differing(protocols) == []) == (len(hashes) == 1)


def test_a_key_that_one_protocol_lacks_is_a_difference():
    assert differing([{"a": 1, "b": None}, {"a": 1}]) == ["b"]
    assert differing([{"a": 1}, {"a": 1.0, "b": 2}, {"a": True, "b": 2}]) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        ("", "none"),
        ([], "none"),
        (True, "true"),
        (0, "0"),
        (1.0, "1.0"),
        (1e-5, "1e-05"),
        ("é", "é"),
        ([0.1, 1.0], "0.1, 1.0"),
        (["ema0.9", None], "ema0.9, none"),
        ({"a": [1]}, '{"a": [1]}'),
    ],
)
def test_values_are_told_in_full(value, text):
    assert fact_text(value) == text
