import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import MISSING

from jitlab.config import schema

SETTINGS = schema.settings()


def declared(**kwargs) -> Any:
    made = dataclasses.make_dataclass("Made", [("value", float, schema.setting(0.0, "doc", **kwargs))])
    return dataclasses.fields(made)[0]


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_says_what_it_is_and_has_a_default_in_its_range(key):
    field = SETTINGS[key]
    assert field.metadata["doc"]
    if field.default != MISSING:
        assert schema.range_fault(field, field.default) is None


@pytest.mark.parametrize("key", SETTINGS)
def test_every_number_has_a_range_that_nan_is_outside_of(key):
    field = SETTINGS[key]
    if field.type in (int, float) or "tuple" in str(field.type):
        assert field.metadata["within"]
        value = (math.nan,) if "tuple" in str(field.type) else math.nan
        assert schema.range_fault(field, value) is not None


@settings(deadline=None, max_examples=100)
@given(
    value=st.one_of(st.sampled_from([0.0, 1.0, math.inf, -math.inf, math.nan]), st.floats(-2, 2)),
    left=st.sampled_from("[("),
    right=st.sampled_from("])"),
)
def test_brackets_mean_what_they_mean_in_mathematics(value, left, right):
    inside = 0 < value < 1 or (value == 0 and left == "[") or (value == 1 and right == "]")
    assert (schema.range_fault(declared(within=f"{left}0, 1{right}"), value) is None) == inside


@pytest.mark.parametrize(
    ("values", "fits"), [((0.0, 1.0), True), ((0.5, 1.5), False), ((-1.0, 0.5), False), ((), True)]
)
def test_a_range_holds_for_every_element(values, fits):
    assert (schema.range_fault(declared(within="[0, 1]"), values) is None) == fits


def test_a_choice_near_the_word_is_offered():
    field = declared(choices=("euler", "heun"))
    assert schema.range_fault(field, "heun") is None
    assert schema.range_fault(field, "eular") == "expected one of euler, heun; did you mean 'euler'?"
    assert schema.range_fault(field, "qqq") == "expected one of euler, heun"


def test_names_are_those_of_what_they_name():
    # config may not import what these name; this is what keeps them the same
    from jitlab.diffusion.path import PRECONDITIONERS, SPACES
    from jitlab.diffusion.samplers import SOLVERS
    from jitlab.metrics.features import INCEPTION, PIXELS, TIMM
    from jitlab.models.layers import MLPS

    assert schema.SPACES == SPACES
    assert ((PIXELS, INCEPTION), TIMM) == (schema.FEATURES, schema.TIMM)
    assert (*SPACES, *PRECONDITIONERS) == schema.PREDICTIONS
    assert set(SETTINGS["model.mlp"].metadata["choices"]) == set(MLPS)
    assert [name for name, solver in SOLVERS.items() if solver.stochastic] == [schema.STOCHASTIC]
    assert set(SETTINGS["sampler.solver"].metadata["choices"]) == set(SOLVERS)


def test_what_changes_the_result_is_not_neutral():
    neutral = {key for key, field in SETTINGS.items() if field.metadata["neutral"]}
    assert neutral == {
        "data.path",
        "data.cache",
        "data.cache_gb",
        "data.skip_damaged",
        "data.ledger",
        "data.workers",
        "train.devices",
        "train.device_batch_size",
        "train.checkpoint_every_steps",
        "evaluation.batch_size",
    }


@settings(deadline=None)
@given(batch_size=st.integers(1, 4096), devices=st.integers(1, 64), limit=st.integers(0, 4096))
def test_a_batch_is_shared_in_equal_parts_within_the_limit_or_refused_with_numbers_that_work(
    batch_size, devices, limit
):
    def faults(devices, limit):
        train = schema.Train(steps=1, batch_size=batch_size, devices=devices, device_batch_size=limit)
        config = schema.Config(train=train, evaluation=schema.Evaluation(images=4096))
        return train, list(schema.sharing_conflicts(config))

    train, found = faults(devices, limit)
    if not found:
        images, rest = divmod(batch_size, devices * schema.parts(train))
        assert rest == 0
        assert 0 < images <= (limit or batch_size)
    for key, text in found:
        for number in map(int, re.findall(r"\d+", text.rpartition("; use ")[2])):
            changed = (number, 0) if key == "train.devices" else (devices, number)
            assert not faults(*changed)[1]
