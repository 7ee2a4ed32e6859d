import dataclasses
import json
import math
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.config import load, schema
from jitlab.config.load import COMMAND_LINE
from jitlab.config.published import Published
from jitlab.config.schema import Config
from jitlab.errors import UserError
from tests.config.conftest import DIGITS, QUESTION, ROOT, refused

Q = "experiments/q.yaml"
SCALE = "experiments/scales/digits.yaml"
REAL = load.load_question(ROOT, "noise_vs_x")


def resolve_real(*overrides, arm="x", seed=0) -> Config:
    return load.resolve(ROOT, REAL, REAL.scale, arm, list(overrides), seed)


# What is in the repository.


@pytest.mark.parametrize("name", load.question_names(ROOT))
def test_every_question_resolves_at_its_own_scale_and_its_arms_differ(name):
    question = load.load_question(ROOT, name)
    configs = {arm: load.resolve(ROOT, question, question.scale, arm, []) for arm in question.arms}
    named = {key for fields in question.arms.values() for key in fields}
    assert load.differing(configs) == [key for key in schema.settings() if key in named]
    assert set(question.published) & set(load.scale_names(ROOT)) <= set(load.scale_names(ROOT))
    assert len({json.dumps(load.flat(config)) for config in configs.values()}) == len(configs)


@pytest.mark.parametrize("folder", ["experiments", "experiments/scales"])
def test_no_yaml_lies_where_nobody_looks(folder):
    names = load.question_names(ROOT) if folder == "experiments" else load.scale_names(ROOT)
    assert names
    assert sorted(path.name for path in (ROOT / folder).iterdir() if path.is_file()) == [f"{n}.yaml" for n in names]


# Merging.


def test_the_command_line_wins_over_the_arm_and_the_arm_over_the_scale(repo):
    repo.write(DIGITS + "objective: {prediction: eps, loss_space: eps, clip_one_minus_t: 0.2}\n", SCALE)
    repo.write(QUESTION.replace("{prediction: x}", "{prediction: x, loss_space: x}"))
    config = repo.resolve("objective.loss_space=v")
    objective = config.objective
    assert (objective.prediction, objective.loss_space, objective.clip_one_minus_t) == ("x", "v", 0.2)
    assert objective.noise_scale == schema.Objective.noise_scale
    assert repo.resolve(arm="v").objective.loss_space == "eps"


def test_the_last_of_two_overrides_wins():
    assert resolve_real("train.steps=5", "train.steps=7").train.steps == 7


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("objective.time_mu=-0.4", "objective.time_mu", -0.4),
        ("objective.time_mu=1", "objective.time_mu", 1.0),
        ("train.learning_rate=2e-3", "train.learning_rate", 2e-3),
        ("sampler.guidance_interval=[0.2, 1]", "sampler.guidance_interval", (0.2, 1.0)),
        ("train.ema_decays=[0.9,0.99,0.999]", "train.ema_decays", (0.9, 0.99, 0.999)),
        ("train.compile=true", "train.compile", True),
        ("data.path=/a/b=c", "data.path", "/a/b=c"),
    ],
)
def test_overrides_take_the_type_of_their_setting(override, key, value):
    found = load.flat(resolve_real(override))[key]
    assert found == value
    assert type(found) is type(value)


def test_the_seed_is_the_runs():
    assert resolve_real(seed=7).seed == 7


def test_a_resolved_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve_real().train.steps = 5  # type: ignore[misc]


def test_differing_lists_what_differs_but_not_the_seed():
    base = resolve_real()
    others = resolve_real("train.steps=7", "train.betas=[0.5, 0.6]", seed=4)
    assert load.differing({"a": base, "b": base}) == []
    assert load.differing({"a": base, "b": base, "c": others}) == ["train.steps", "train.betas"]


def test_flat_names_every_setting_once():
    config = resolve_real()
    assert list(load.flat(config)) == list(schema.settings())
    assert (
        len(schema.settings()) == sum(len(dataclasses.fields(part)) for part in vars(config).values() if part != 0) + 1
    )


# Bad input: names.


def test_an_unknown_experiment_offers_the_nearest():
    with refused("experiments/noise_vs_y.yaml", "did you mean 'noise_vs_x'?"):
        load.load_question(ROOT, "noise_vs_y")


@pytest.mark.parametrize("name", ["", "scales/digits", "../experiments/q", "q.yaml"])
def test_an_experiment_is_not_a_path(repo, name):
    with refused("experiments/", "no such experiment"):
        repo.question(name)


def test_an_unknown_scale_offers_the_nearest(repo):
    with refused("experiments/scales/digit.yaml", "did you mean 'digits'?"):
        repo.resolve(scale="digit")


def test_an_unknown_arm_offers_the_nearest():
    with refused("experiments/noise_vs_x.yaml: arms.epss", "did you mean 'eps'?"):
        resolve_real(arm="epss")


def test_an_unknown_field_on_the_command_line_offers_the_nearest():
    with refused(f"{COMMAND_LINE}: train.stesp", "did you mean 'train.steps'?"):
        resolve_real("train.stesp=5")


def test_an_unknown_field_of_an_arm_offers_the_nearest(repo):
    repo.write(QUESTION.replace("prediction: v", "predicton: v"))
    with refused(f"{Q} (arm v): objective.predicton", "did you mean 'objective.prediction'?"):
        repo.resolve(arm="v")


def test_an_unknown_field_of_a_scale_offers_the_nearest(repo):
    repo.write(DIGITS.replace("depth", "dept"), SCALE)
    with refused(f"{SCALE}: model.dept", "did you mean 'model.depth'?"):
        repo.resolve()


@pytest.mark.parametrize("text", ["steps", "=5", ""])
def test_an_override_without_key_or_value_is_shown_an_example(text):
    with refused(f"{COMMAND_LINE}: '{text}'", "KEY=VALUE"):
        resolve_real(text)


@pytest.mark.parametrize("key", ["train", "model", "train.steps.more", "train.", ".", "train..steps", "data[path]"])
def test_only_settings_can_be_set(key):
    with refused(f"{COMMAND_LINE}: {key}: no such setting"):
        resolve_real(f"{key}=5")


# Bad input: values.


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.steps=many", "a whole number"),
        ("train.steps=1.5", "a whole number"),
        ("train.steps=true", "a whole number"),
        ("train.steps=", "a whole number"),
        ("train.steps=null", "a whole number"),
        ("train.steps=[1]", "a whole number"),
        ("train.steps={a: 1}", "a whole number"),
        ("objective.clip_one_minus_t=little", "a number"),
        ("objective.clip_one_minus_t=true", "a number"),
        ("train.compile=maybe", "true or false"),
        ("train.compile=2.5", "true or false"),
        ("data.path=", "a word"),
        ("data.path=[a]", "a word"),
        ("sampler.guidance_interval=0.5", "a list of numbers"),
        ("sampler.guidance_interval=[0.5]", "a list of numbers"),
        ("sampler.guidance_interval=[0, 0.5, 1]", "a list of numbers"),
        ("sampler.guidance_interval=[a, 1]", "a list of numbers"),
        ("sampler.guidance_interval=[null, 1]", "a list of numbers"),
        ("train.ema_decays=0.9", "a list of numbers"),
        ("train.betas=[0.9]", "a list of numbers"),
    ],
)
def test_a_value_of_the_wrong_type_says_what_was_expected(override, says):
    with refused(f"{COMMAND_LINE}: {override.partition('=')[0]} = ", f"expected {says}"):
        resolve_real(override)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.batch_size=0", "[1, inf)"),
        ("train.batch_size=-4", "[1, inf)"),
        ("train.steps=0", "[1, inf)"),
        ("objective.clip_one_minus_t=0", "(0, 1)"),
        ("objective.clip_one_minus_t=1", "(0, 1)"),
        ("objective.clip_one_minus_t=-0.1", "(0, 1)"),
        ("objective.clip_one_minus_t=1.5", "(0, 1)"),
        ("objective.clip_one_minus_t=.nan", "(0, 1)"),
        ("objective.time_mu=.nan", "(-inf, inf)"),
        ("objective.time_mu=nan", "(-inf, inf)"),
        ("objective.time_mu=.inf", "(-inf, inf)"),
        ("objective.time_mu=-.inf", "(-inf, inf)"),
        ("objective.time_sigma=0", "(0, inf)"),
        ("objective.noise_scale=inf", "(0, inf)"),
        ("train.learning_rate=.inf", "(0, inf)"),
        ("train.learning_rate=1e400", "(0, inf)"),
        ("train.learning_rate=-1e-3", "(0, inf)"),
        ("objective.label_drop=1.01", "[0, 1]"),
        ("sampler.guidance_scale=-1", "[0, inf)"),
        ("sampler.guidance_interval=[-0.1, 1]", "[0, 1]"),
        ("sampler.guidance_interval=[0, 1.1]", "[0, 1]"),
        ("sampler.guidance_interval=[.nan, 1]", "[0, 1]"),
        ("train.ema_decays=[0.9, 1]", "[0, 1)"),
        ("train.betas=[0.9, 1]", "[0, 1)"),
        ("model.patch_size=0", "[1, inf)"),
        ("model.num_heads=0", "[1, inf)"),
        ("data.workers=-1", "[0, 256]"),
        ("objective.prediction=noise", "x, eps, v"),
        ("objective.loss_space=X", "x, eps, v"),
        ("sampler.solver=hun", "did you mean 'heun'?"),
        ("data.source=imagnet", "digits"),
    ],
)
def test_a_value_out_of_range_is_told_the_range(override, says):
    with refused(f"{COMMAND_LINE}: {override.partition('=')[0]} = ", says):
        resolve_real(override)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.patch_size=5", "1, 2, 4, 8, 16, 32"),
        ("model.patch_size=64", "data.image_size = 32"),
        ("model.hidden_size=130", "model.num_heads = 16"),
        ("model.in_context_start=4", "model.depth = 4"),
        ("sampler.guidance_interval=[0.9, 0.1]", "write [0.1, 0.9]"),
        ("sampler.churn=2", "use sampler.solver=euler_maruyama"),
        ("sampler.times=[0]", "from 0 to 1"),
        ("sampler.times=[0.1, 1]", "from 0 to 1"),
        ("sampler.times=[0, 0.9]", "from 0 to 1"),
        ("sampler.times=[0, 0.5, 0.5, 1]", "none twice"),
        ("sampler.times=[0, 0.7, 0.5, 1]", "rise"),
        ("train.ema_decays=[]", "at least one"),
        ("train.ema_decays=[0.9, 0.9]", "none twice"),
        ("evaluation.images=9", "data.num_classes = 10"),
        ("evaluation.reference_images=1", "2 or more"),
        ("evaluation.features=pixel", "did you mean 'pixels'?"),
        ("evaluation.features=fid", "expected one of pixels, inception, timm:NETWORK"),
        ("evaluation.features='timm:'", "expected one of pixels, inception, timm:NETWORK"),
        ("train.devices=3", "train.batch_size = 64 evenly; use 2 or 4"),
        ("train.devices=65", "train.batch_size = 64 evenly; use 64"),
        ("train.device_batch_size=24", "does not divide the 64 images of a device"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(override, says):
    with refused(f"{COMMAND_LINE}: {override.partition('=')[0]} = ", says):
        resolve_real(override)


@pytest.mark.parametrize("features", ["pixels", "inception", "timm:vit_small_patch14_dinov2.lvd142m"])
def test_features_are_pixels_inception_or_any_network_of_timm(features):
    assert resolve_real(f"evaluation.features={features}").evaluation.features == features


def test_a_reference_is_left_out_by_saying_nothing():
    assert resolve_real("evaluation.reference=a.npz").evaluation.reference == "a.npz"
    assert resolve_real("evaluation.reference=a.npz", "evaluation.reference=").evaluation.reference == ""
    with refused(f"{COMMAND_LINE}: evaluation.features = (empty)", "expected a word"):
        resolve_real("evaluation.features=")


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["model.class_head_block=1"], "model.class_head_block", "set both, or both to 0"),
        (["objective.class_loss_weight=100"], "model.class_head_block", "set both, or both to 0"),
        (["objective.class_loss_weight=1", "model.class_head_block=5"], "model.class_head_block", "model.depth = 4"),
        (
            ["objective.class_loss_weight=1", "model.class_head_block=2", "model.in_context_start=1"],
            "model.in_context_start",
            "use model.class_head_block = 2 or more",
        ),
        (["model.rope=false", "model.hidden_size=130", "model.num_heads=5"], "model.hidden_size", "multiple of 20"),
    ],
)
def test_several_settings_that_do_not_fit_are_refused(overrides, key, says):
    with pytest.raises(UserError, match=f"{key} = .*{re.escape(says)}"):
        resolve_real(*overrides)


@pytest.mark.parametrize(
    ("overrides", "where", "says"),
    [
        (["sampler.times=[0, 0.5, 1]"], f"{SCALE}: sampler.steps = 25", "write sampler.steps=2"),
        (
            ["sampler.times=[0, 0.5, 1]", "sampler.steps=2", "sampler.shift=3"],
            f"{COMMAND_LINE}: sampler.shift = 3.0",
            "write sampler.shift=1",
        ),
    ],
)
def test_an_explicit_time_grid_is_the_only_one(overrides, where, says):
    with refused(where, says):
        resolve_real(*overrides)


def test_sampler_settings_that_fit_are_taken():
    explicit = resolve_real("sampler.times=[0, 0.3, 1]", "sampler.steps=2").sampler
    assert explicit.times == (0.0, 0.3, 1.0)
    stochastic = resolve_real("sampler.solver=euler_maruyama", "sampler.churn=0.5", "sampler.shift=3").sampler
    assert (stochastic.churn, stochastic.shift) == (0.5, 3.0)


def test_a_conflict_is_blamed_on_the_origin_of_the_setting_that_it_names():
    with refused(f"{SCALE}: model.patch_size = 16", "data.image_size = 24"):
        resolve_real("data.image_size=24")


@pytest.mark.parametrize("value", ["-4", "four", "[4]", "null", "1.5"])
def test_a_bad_value_names_the_scale_that_holds_it(repo, value):
    repo.write(DIGITS.replace("depth: 4", f"depth: {value}"), SCALE)
    with refused(f"{SCALE}: model.depth = ", "expected"):
        repo.resolve()


def test_a_bad_value_names_the_arm_that_holds_it(repo):
    repo.write(QUESTION.replace("prediction: v", "prediction: w"))
    repo.resolve(arm="x")
    with refused(f"{Q} (arm v): objective.prediction = w", "x, eps, v"):
        repo.resolve(arm="v")


@pytest.mark.parametrize("replacement", ["", "  depth: ???\n"])
def test_a_missing_setting_names_the_scale_and_says_what_it_is(repo, replacement):
    repo.write(DIGITS.replace("  depth: 4\n", replacement), SCALE)
    with refused(f"{SCALE}: model.depth: is missing", schema.settings()["model.depth"].metadata["doc"]):
        repo.resolve()


@pytest.mark.parametrize("where", ["command line", "arm", "scale"])
def test_the_seed_is_not_a_setting_of_files(repo, where):
    if where == "arm":
        repo.write(QUESTION.replace("x: {", "x: {seed: 3, "))
    if where == "scale":
        repo.write(DIGITS + "seed: 3\n", SCALE)
    origin = {"command line": COMMAND_LINE, "arm": f"{Q} (arm x)", "scale": SCALE}[where]
    with refused(f"{origin}: seed:", "--seeds N"):
        repo.resolve(*["seed=3"] * (where == "command line"))


@pytest.mark.parametrize("text", ["{", "[1", "a: b: c", "!!python/object:os.system 1", "${", "\x00"])
def test_a_value_that_is_no_yaml_is_named(text):
    with refused(f"{COMMAND_LINE}: train.steps = "):
        resolve_real(f"train.steps={text}")


# Bad input: files.


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("question: q\nsource: [\n", 3),
        ("question: q\n\tsource: s\n", 2),
        (QUESTION + "scale: again\n", 7),
        (QUESTION + "  x: {objective: {prediction: eps}}\n", 7),
        ("question: *nothing\n", 1),
        (QUESTION + "---\na: 1\n", 7),
    ],
)
def test_malformed_yaml_is_told_by_file_and_line(repo, content, line):
    repo.write(content)
    with refused(f"{Q}:{line}: cannot be read as YAML"):
        repo.question()


def test_a_malformed_scale_is_told_by_file_and_line(repo):
    repo.write("a: 1\nb: [1\nc: 2\n", SCALE)
    with refused(f"{SCALE}:3: cannot be read as YAML"):
        repo.resolve()


@pytest.mark.parametrize("content", [QUESTION.encode() + b"# \xe9\n", QUESTION.encode() + b"\x00", b"5\n", b"${a}"])
def test_a_file_that_is_no_yaml_is_named(repo, content):
    repo.write(content)
    with refused(f"{Q}: "):
        repo.question()


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        ("", "question", "expected a text"),
        ("- a\n", "the file", "'key: value' pairs"),
        (QUESTION + "scal: 3\n", "scal", "did you mean 'scale'?"),
        (QUESTION + "5: 3\n", "5", "unknown key"),
        (QUESTION.replace("source: s\n", ""), "source", "expected a text"),
        (QUESTION.replace("source: s", "source: 5"), "source = 5", "expected a text"),
        (QUESTION.replace("scale: digits", "scale:"), "scale", "expected a text"),
        (QUESTION.partition("arms:")[0], "arms", "'key: value' pairs"),
        (QUESTION.partition("arms:")[0] + "arms: {}\n", "arms", "at least one arm"),
        (QUESTION.partition("arms:")[0] + "arms: [x]\n", "arms", "'key: value' pairs"),
        (QUESTION.replace("x: {objective: {prediction: x}}", "x: 5"), "arms.x = 5", "'key: value' pairs"),
        (QUESTION.replace("x: {", "1: {"), "arms.1", "quote a number"),
        (QUESTION.replace("x: {", "a/b: {"), "arms.a/b", "an arm's name"),
        (QUESTION.replace("x: {", "..: {"), "arms..", "an arm's name"),
        (QUESTION + "published: 5\n", "published = 5", "'key: value' pairs"),
        (QUESTION + "published: {digits: 5}\n", "published.digits = 5", "expected the path of a table"),
        (QUESTION + "published: {digits: t.b}\n", "published.digits = 't.b'", "expected one of a, rows"),
        (QUESTION + "published: {digits: t}\n", "published.digits = 't'", "keys table, metric and values"),
        (QUESTION + "published: {digits: t.a.x}\n", "published.digits = 't.a.x'", "a row of one"),
        (QUESTION + "published: {digits: t.rows.r.x.y}\n", "published.digits", "no such table"),
        (QUESTION.replace("x: {", "xx: {") + "published: {digits: t.a}\n", "published.digits", "did you mean 'xx'?"),
        (QUESTION + "at: {digit: {}}\n", "at.digit", "did you mean 'digits'?"),
        (QUESTION + "at: {digits: {xx: {}}}\n", "at.digits.xx", "did you mean 'x'?"),
        (QUESTION + "at: {digits: {x: 5}}\n", "at.digits.x = 5", "'key: value' pairs"),
        (QUESTION + "at: {digits: {al: {}}}\n", "at.digits.al", "did you mean 'all'?"),
        (QUESTION + "at: {digits: {all: 5}}\n", "at.digits.all = 5", "'key: value' pairs"),
        (QUESTION.replace("  x: {", "  all: {"), "arms.all", "another name"),
    ],
)
def test_a_malformed_question_names_file_and_key(repo, content, where, says):
    repo.write(content)
    with refused(f"{Q}: {where}", says):
        repo.question()


def test_the_repository_is_found_from_below_and_its_absence_is_told(repo, tmp_path, monkeypatch):
    monkeypatch.delenv("JITLAB_ROOT", raising=False)
    monkeypatch.chdir(repo.root / "experiments" / "scales")
    assert load.repository() == repo.root
    monkeypatch.chdir(tmp_path)
    with refused(str(tmp_path), "JITLAB_ROOT"):
        load.repository()
    monkeypatch.setenv("JITLAB_ROOT", str(repo.root))
    assert load.repository() == repo.root


# Written and read back.

number = {"allow_nan": False, "allow_infinity": False}
VALID = {
    "data.path": st.one_of(
        st.text("abc/._- #:'\"\\{}[]é", min_size=1),
        st.sampled_from(["null", "true", "1e3", "010", "~", "1", " ", "no", "2024-01-01", "a: b", "- a", "1:30"]),
    ),
    "data.flip": st.booleans(),
    "model.mlp_ratio": st.floats(1e-6, 1e6),
    "model.in_context_tokens": st.integers(0, 2**40),
    "objective.prediction": st.sampled_from(schema.SPACES),
    "objective.time_mu": st.floats(**number),  # type: ignore[arg-type]
    "objective.clip_one_minus_t": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "objective.label_drop": st.floats(0, 1),
    "sampler.guidance_interval": st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted),
    "train.steps": st.integers(1, 2**60),
    "train.learning_rate": st.floats(min_value=0, exclude_min=True, **number),  # type: ignore[arg-type]
    "train.ema_decays": st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4, unique=True),
    "train.precision": st.sampled_from(["auto", "float32", "bf16"]),
    "train.compile": st.booleans(),
}


def word(key, value) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


@settings(deadline=None, max_examples=25)
@given(overrides=st.fixed_dictionaries({}, optional=VALID), seed=st.integers(0, 2**31))
def test_a_configuration_is_what_was_given_and_survives_its_file(tmp_path_factory, overrides, seed):
    config = resolve_real(*[word(key, value) for key, value in overrides.items()], seed=seed)
    values = load.flat(config)
    for key, value in overrides.items():
        assert values[key] == (tuple(value) if isinstance(value, list) else value)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(load.to_yaml(config))
    again = load.from_yaml(path)
    assert again == config
    assert isinstance(again, Config)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("depth: 4", "depth: four"), "model.depth"),
        (lambda text: text.replace("depth: 4", "dept: 4"), "did you mean 'model.depth'?"),
        (lambda text: text.replace("  depth: 4\n", ""), "model.depth: is missing"),
        (lambda text: text.replace("seed: 0", "seed: -1"), "seed = -1"),
        (lambda text: text[: len(text) // 2] + "\n[", "cannot be read"),
        (lambda text: "", "is missing"),
        (lambda text: "- a", "'key: value' pairs"),
    ],
)
def test_a_spoilt_configuration_of_a_run_is_named(tmp_path, spoil, says):
    path = tmp_path / "config.yaml"
    path.write_text(spoil(load.to_yaml(resolve_real())))
    with refused(str(path), says):
        load.from_yaml(path)


def test_a_run_without_its_configuration_is_named(tmp_path):
    with refused(str(tmp_path / "config.yaml"), "--fresh"):
        load.from_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("value", ["${nope}", "${oc.env:HOME}", "${data.path}"])
def test_an_interpolation_without_a_fitting_value_is_refused(value):
    with refused(f"{COMMAND_LINE}: train.steps"):
        resolve_real(f"train.steps={value}")


def test_a_reference_is_refused_even_with_its_escape():
    with refused(f"{COMMAND_LINE}: data.path"):
        resolve_real("data.path=a\\${b}")


@pytest.mark.parametrize("seed", ["3.5", "a", "null", "[1]"])
def test_a_spoilt_seed_of_a_run_is_named(tmp_path, seed):
    path = tmp_path / "config.yaml"
    path.write_text(load.to_yaml(resolve_real()).replace("seed: 0", f"seed: {seed}"))
    with refused(str(path), "seed"):
        load.from_yaml(path)


def test_a_configuration_of_a_run_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(load.to_yaml(resolve_real()).encode() + b"# \xe9\n")
    with refused(str(path), "cannot be read"):
        load.from_yaml(path)


def test_published_figures_come_from_a_table_or_a_row_of_it(repo):
    repo.write(QUESTION + "published: {256: t.a, big: t.rows.r}\n")
    found = repo.question().published
    assert found["256"] == Published("m", "Table 1", {"x": 1, "v": 2.5})
    assert found["big"] == Published("m", "Table 2", {"x": 3, "v": 4})


def test_rows_and_columns_flatten_to_the_names_of_arms(repo):
    repo.write(QUESTION.replace("x: {", "r_x: {").replace("v: {", "r_v: {") + "published: {digits: t}\n")
    repo.write("t: {table: T, metric: m, values: {r: {x: 3, v: 4}}}\n", "experiments/published/figures.yaml")
    assert repo.question().published["digits"].values == {"r_x": 3, "r_v": 4}


def test_published_figures_are_finite(repo):
    repo.write(QUESTION + "published: {digits: t.rows.s}\n")
    with refused("experiments/published/figures.yaml: t.rows.s: v = nan", "expected a finite number"):
        repo.question()


def test_an_arm_takes_the_settings_of_its_scale_over_its_own(repo):
    repo.write(QUESTION + "at: {digits: {x: {objective: {prediction: eps, clip_one_minus_t: 0.2}}}}\n")
    objective = repo.resolve().objective
    assert (objective.prediction, objective.clip_one_minus_t) == ("eps", 0.2)
    assert repo.question().arms_at("elsewhere") == repo.question().arms
    assert repo.resolve(arm="v").objective.prediction == "v"


AT = QUESTION.replace("x: {objective: {prediction: x", "x: {objective: {prediction: x, time_mu: 1") + (
    "at: {digits: {all: {objective: {time_mu: 2, noise_scale: 2, label_drop: 0.2}, model: {depth: 3}}, "
    "x: {objective: {noise_scale: 3}}}}\n"
)


def test_what_all_arms_share_at_a_scale_lies_between_the_scale_and_the_arm(repo):
    repo.write(AT)
    shutil.copy(ROOT / SCALE, repo.root / "experiments/scales/other.yaml")
    x, v, other = repo.resolve("objective.label_drop=0.5"), repo.resolve(arm="v"), repo.resolve(scale="other")
    assert (x.model.depth, v.model.depth, other.model.depth) == (3, 3, 4)
    assert (x.objective.time_mu, v.objective.time_mu) == (1, 2)
    assert (x.objective.noise_scale, v.objective.noise_scale) == (3, 2)
    assert (x.objective.label_drop, v.objective.label_drop) == (0.5, 0.2)


def test_what_all_arms_share_does_not_set_an_arm_apart(repo):
    repo.write(AT)
    x = {"objective.prediction": "x", "objective.time_mu": 1, "objective.noise_scale": 3}
    assert repo.question().arms_at("digits") == {"x": x, "v": {"objective.prediction": "v"}}


@pytest.mark.parametrize("name", ["all", "x"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("{model: {dept: 3}}", "model.dept: no such setting; did you mean 'model.depth'?"),
        ("{model: {depth: three}}", "model.depth = 'three': expected a whole number"),
        ("{model: {depth: 0}}", "model.depth = 0: expected a value in [1, inf)"),
        ("{model: {patch_size: 5}}", "model.patch_size = 5: does not divide"),
        ("{data: {ambient_dim: 4}}", "data.ambient_dim = 4: has no effect with data.source = digits; remove it"),
        ("{seed: 3}", "seed: is set for each run"),
        ("{model: {}}", "model: no such setting"),
    ],
)
def test_a_fault_of_a_scale_in_a_question_is_told_with_its_place(repo, name, fields, says):
    repo.write(QUESTION + f"at: {{digits: {{{name}: {fields}}}}}\n")
    with refused(f"{Q}: at.digits.{name}: {says}"):
        repo.resolve()


def test_a_question_made_for_other_samples_is_sent_to_its_own_scale(repo):
    spiral(repo)
    repo.write(QUESTION.replace("{prediction: x}", "{prediction: x, label_drop: 0.5}"))
    with refused(f"{Q} (arm x): objective.label_drop = 0.5: has no effect with", "use --scale digits"):
        repo.resolve(scale="spiral")


def test_a_folder_of_one_source_is_not_read_as_another(repo):
    repo.write(DIGITS.replace("source: digits", "source: imagenet"), "experiments/scales/large.yaml")
    shutil.copy(ROOT / SCALE, repo.root / "experiments/scales/other.yaml")
    asked = QUESTION.replace("x: {", "x: {data: {path: data/digits16}, ")
    repo.write(asked)
    assert repo.resolve(scale="other").data.path == "data/digits16"
    with refused(f"{Q} (arm x): data.path = data/digits16: is for data.source = digits", "use --scale digits"):
        repo.resolve(scale="large")
    assert repo.resolve(arm="v", scale="large").data.source == "imagenet"
    repo.write(asked + "at: {large: {x: {data: {path: data/large}}}}\n")
    assert repo.resolve(scale="large").data.path == "data/large"


@pytest.mark.parametrize("fields", ["{objectivee: {}}", "{objective: {prediction: {}}}"])
def test_an_empty_group_is_not_dropped_silently(repo, fields):
    repo.write(QUESTION.replace("{objective: {prediction: x}}", fields))
    with refused(f"{Q} (arm x): objective"):
        repo.resolve()


def test_an_empty_interval_is_not_advised_again():
    with refused(f"{COMMAND_LINE}: sampler.guidance_interval") as info:
        resolve_real("sampler.guidance_interval=[0.5, 0.5]")
    assert "write [0.5, 0.5]" not in str(info.value)


@pytest.mark.parametrize("key", ["train.steps", "train.batch_size", "evaluation.images"])
def test_a_number_that_no_machine_holds_is_refused(key):
    with refused(f"{COMMAND_LINE}: {key}"):
        resolve_real(f"{key}=99999999999999999999999999")


@pytest.mark.parametrize("value", ["true", "1e3", "010"])
def test_a_path_that_yaml_reads_as_another_type_must_be_quoted(value):
    with refused(f"{COMMAND_LINE}: data.path", "quotes"):
        resolve_real(f"data.path={value}")
    assert resolve_real(f"data.path='{value}'").data.path == value


@pytest.mark.parametrize("override", ["tra\nin.steps=5", 'objective.prediction="x\\ny"'])
def test_a_newline_in_the_input_does_not_break_the_line(override):
    with refused(COMMAND_LINE):
        resolve_real(override)


def test_finite_defaults():
    assert all(not isinstance(f.default, float) or math.isfinite(f.default) for f in schema.settings().values())


# Settings without effect.


def spiral(repo, more="") -> None:
    repo.write(
        "data: {source: spiral, ambient_dim: 8}\nmodel: {architecture: mlp, hidden_size: 8, depth: 2}\n"
        "train: {steps: 1, batch_size: 1}\nevaluation: {every_steps: 1, images: 2, held_out_every_steps: 1, "
        "grid_every_steps: 1}\n" + more,
        "experiments/scales/spiral.yaml",
    )


def test_what_has_no_effect_is_not_asked_for_and_not_taken(repo):
    spiral(repo)
    assert repo.resolve(scale="spiral").data.ambient_dim == 8
    assert repo.resolve("data.flip=false", scale="spiral").data.flip is False
    with refused("command line: model.num_heads = 2: has no effect with model.architecture = mlp; remove it"):
        repo.resolve("model.num_heads=2", scale="spiral")
    spiral(repo, "sampler: {guidance_interval: [0.2, 0.8]}\n")
    with refused("experiments/scales/spiral.yaml: sampler.guidance_interval = [0.2, 0.8]: has no effect with"):
        repo.resolve(scale="spiral")


def test_a_network_that_does_not_take_the_data_is_refused_with_the_one_that_does(repo):
    spiral(repo)
    with refused("command line: model.architecture = mlpp: expected one of jit, mlp; did you mean 'mlp'?"):
        repo.resolve("model.architecture=mlpp", scale="spiral")
    with refused(
        "command line: data.source = spirral: expected one of digits, imagenet, spiral; did you mean 'spiral'?"
    ):
        repo.resolve("data.source=spirral", scale="spiral")
    with refused("command line: model.architecture = mlp: does not take data.source = digits; use jit"):
        repo.resolve("model.architecture=mlp")
    with refused("experiments/scales/spiral.yaml: model.architecture = mlp: does not take data.source = digits"):
        repo.resolve("data.source=digits", scale="spiral")
    with refused("experiments/scales/digits.yaml: model.architecture = jit: does not take data.source = spiral"):
        repo.write(
            (ROOT / "experiments/scales/digits.yaml")
            .read_text()
            .split("model:")[0]
            .replace(
                "data: {source: digits, path: data/digits32, image_size: 32, num_classes: 10}", "data: {source: spiral}"
            ),
            "experiments/scales/digits.yaml",
        )
        repo.resolve()
