"""Checkpoints in the official layout: taken over, sampled from, trained on, and written back."""

import argparse
import dataclasses
import json
from typing import Any

import pytest
import torch

from jitlab import build, cli
from jitlab.checkpoint_files import open_checkpoint, state_at
from jitlab.config import load
from jitlab.datasets.digits import build_digits
from jitlab.diffusion.guidance import guided_velocity
from jitlab.diffusion.samplers import SOLVERS
from jitlab.diffusion.time_grid import linear_grid
from jitlab.errors import UserError
from tests.callbacks.runs import ROOT, tiny_config, train
from tests.golden import vectors as golden

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, 16)
    return folder


def random_like(tensors, seed, scale=0.01):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}


def official_content(state) -> dict[str, Any]:
    """Return what the official implementation would save for these weights."""
    trainable = {name: t for name, t in state.items() if name != "pos_embed"}
    content: dict[str, Any] = {"model": {f"net.{name}": t.clone() for name, t in state.items()}}
    for seed, key in enumerate(("model_ema1", "model_ema2")):
        near = {name: t + random_like(trainable, seed)[name] for name, t in trainable.items()}
        # Averaged over and over, the fixed positions are off by rounding.
        near["pos_embed"] = state["pos_embed"] + 1e-6 * (seed + 1)
        content[key] = {f"net.{name}": near[name] for name in state}
    groups: list[dict[str, Any]] = [
        {"params": [torch.nn.Parameter(t) for t in trainable.values() if t.ndim <= 1], "weight_decay": 0.0},
        {"params": [torch.nn.Parameter(t) for t in trainable.values() if t.ndim > 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.95))
    for group in groups:
        for number, parameter in enumerate(group["params"]):
            parameter.grad = torch.full_like(parameter, number + 1.0)
    for _ in range(3):
        optimizer.step()
    content["optimizer"] = optimizer.state_dict()
    return {**content, "epoch": 5, "args": argparse.Namespace(model="tiny", lr=None)}


def golden_state(name="tiny"):
    return {k.removeprefix("state/"): v for k, v in golden.load(name)[1].items() if k.startswith("state/")}


def load_official(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def assert_same(ours, theirs, where=""):
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def save(content, path):
    torch.save(content, path)
    return path


def imported(tmp_path, content, *words, start="2"):
    source, out = save(content, tmp_path / "official.pth"), tmp_path / "imported.ckpt"
    if "net.in_context_posemb" in content["model"]:
        words = ("--in-context-start", start, *words)
    assert cli.main(["checkpoint", "import", str(source), "--out", str(out), "--scale", "imagenet64", *words]) == 0
    return out


def import_refusal(capsys, tmp_path, content, *words):
    """Import what cannot be; return the one line that says why."""
    source, out = save(content, tmp_path / "official.pth"), tmp_path / "out.ckpt"
    words = ("--scale", "imagenet64", "--in-context-start", "2", *words)
    line = refusal(capsys, "checkpoint", "import", source, "--out", out, *words)
    assert not out.exists()
    return line


@pytest.mark.parametrize("name", golden.NAMES)
@pytest.mark.parametrize("without", [(), ("optimizer", "epoch", "args")])
def test_what_is_imported_is_exported_bit_equal(tmp_path, name, without):
    content = {key: value for key, value in official_content(golden_state(name)).items() if key not in without}
    checkpoint, out = imported(tmp_path, content), tmp_path / "again.pth"
    assert cli.main(["checkpoint", "export", str(checkpoint), "--out", str(out)]) == 0
    assert_same(load_official(out), content)


@pytest.mark.parametrize("name", golden.NAMES)
def test_sizes_are_found_in_the_tensors(tmp_path, name):
    config = open_checkpoint(imported(tmp_path, official_content(golden_state(name)))).config
    sizes = json.loads((golden.FOLDER / f"{name}.json").read_text())
    expected = {"image_size": sizes.pop("input_size"), "num_classes": sizes.pop("num_classes")}
    assert expected == {key: getattr(config.data, key) for key in expected}
    del sizes["in_channels"]
    sizes["in_context_tokens"] = sizes.pop("in_context_len")
    if not sizes["in_context_tokens"]:
        sizes["in_context_start"] = 0
    assert sizes == {key: getattr(config.model, key) for key in sizes}
    assert config.train.ema_decays == (0.9999, 0.9996)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("scale", "interval"), [(1.0, (0.0, 1.0)), (2.9, (0.1, 1.0)), (2.9, (0.0, 1.0))])
def test_an_imported_checkpoint_samples_the_official_images(tmp_path, solver, scale, interval):
    v = golden.load("tiny")[1]
    module = open_checkpoint(imported(tmp_path, official_content(golden_state()))).module("raw")
    goal = module.objective
    with torch.no_grad():
        velocity = guided_velocity(module.network, goal.velocity, v["in/sample_y"], goal.null_label, scale, interval)
        images = SOLVERS[solver](velocity, v["in/init_noise"], linear_grid(6))
    theirs = v[f"out/sample/{solver}/steps6_cfg{scale}_interval{interval[0]}-{interval[1]}"]
    assert (images - theirs).norm() / theirs.norm() < 1e-4


def test_training_goes_on_from_an_imported_checkpoint(tmp_path, shards):
    config = tiny_config(shards)
    network = build.build_network(config)
    content = official_content(network.state_dict())
    words = [
        f"{key}={value}" for key, value in load.flat(config).items() if key.startswith(("data", "eval", "sampler"))
    ]
    words = [word.replace("(", "[").replace(")", "]") for word in words]
    out = imported(
        tmp_path,
        content,
        "train.batch_size=400",
        "train.steps=4",
        "train.devices=1",
        "train.device_batch_size=0",
        *words,
        start="1",
    )
    folder = tmp_path / "run"
    folder.mkdir()
    out.rename(folder / "last.ckpt")
    config = open_checkpoint(folder / "last.ckpt").config
    run = train(dataclasses.replace(config, train=dataclasses.replace(config.train, log_every_steps=1)), folder)
    assert run.trainer.global_step == 4
    saved = run.checkpoint
    assert {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {4}
    assert all(group["fused"] for group in saved["optimizer_states"][0]["param_groups"])
    start = content["model"]["net.final_layer.linear.weight"]
    moved = (run.weights["final_layer.linear.weight"] - start).abs().max()
    assert 0 < moved < 1e-3
    first = content["model_ema1"]["net.final_layer.linear.weight"]
    assert 0 < (saved["ema"]["0.9999"]["final_layer.linear.weight"] - first).abs().max() < 1e-3
    assert load.from_text(saved["config"], "checkpoint").model == config.model
    out = tmp_path / "later.pth"
    assert cli.main(["checkpoint", "export", str(folder / "last.ckpt"), "--out", str(out)]) == 0
    again = load_official(out)
    assert again["model"].keys() == content["model"].keys()
    assert torch.equal(again["model"]["net.final_layer.linear.weight"], run.weights["final_layer.linear.weight"])
    assert [len(g["params"]) for g in again["optimizer"]["param_groups"]] == [
        len(g["params"]) for g in content["optimizer"]["param_groups"]
    ]


def refusal(capsys, *words):
    assert cli.main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


WRONG = {
    "no average": (lambda c: c.pop("model_ema2"), "model_ema2: is missing"),
    "other key": (lambda c: c.update(scaler={}), "scaler: is not of the official layout"),
    "missing weight": (
        lambda c: c["model_ema1"].pop("net.blocks.3.attn.proj.weight"),
        "model_ema1: net.blocks.3.attn.proj.weight: is missing",
    ),
    "missing embedding": (lambda c: c["model"].pop("net.pos_embed"), "net.pos_embed: is missing"),
    "left over": (lambda c: c["model"].update({"net.extra": torch.ones(3)}), "net.extra: shape (3,) is left over"),
    "no prefix": (lambda c: c["model"].update(extra=torch.ones(3)), "extra: is left over; official names begin"),
    "shape": (
        lambda c: c["model"].update({"net.blocks.1.mlp.w12.bias": torch.ones(7)}),
        "net.blocks.1.mlp.w12.bias: shape (7,); expected (340,)",
    ),
    "positions": (lambda c: c["model"]["net.pos_embed"].mul_(2), "net.pos_embed: differs by 1"),
    "no tensor": (lambda c: c["model"].update({"net.pos_embed": 3}), "net.pos_embed: is a int"),
    "epoch": (lambda c: c.update(epoch="last"), "epoch = 'last': expected a whole number"),
    "groups": (lambda c: c["optimizer"]["param_groups"].pop(), "optimizer: has 1 groups"),
    "moment": (lambda c: c["optimizer"]["state"].pop(3), "(parameter 3) is missing"),
    "no groups": (lambda c: c["optimizer"].update(param_groups=None), "param_groups is a NoneType"),
    "no group": (lambda c: c["optimizer"]["param_groups"].__setitem__(0, None), "param_groups: expected groups whose"),
    "beta": (lambda c: c["optimizer"]["param_groups"][1].update(betas="b"), "AdamW does not take them"),
    "no tensor moment": (
        lambda c: c["optimizer"]["state"][3].update(exp_avg=1),
        "exp_avg: is a int; expected a tensor",
    ),
    "no moments": (lambda c: c["optimizer"]["state"].update({3: None}), "is a NoneType; expected a dictionary"),
    "step": (lambda c: c["optimizer"]["state"][3].update(step="x"), "step = 'x': expected a whole number"),
    "half step": (lambda c: c["optimizer"]["state"][3].update(step=torch.tensor(float("nan"))), "step = nan: expected"),
    "empty": (
        lambda c: c["model"].update({"net.blocks.0.attn.q_norm.weight": torch.ones(0)}),
        "q_norm.weight: shape (0,); expected (head), none of them 0",
    ),
    "args": (lambda c: c.update(args="hello"), "args: is a str; expected the command line as a Namespace"),
    "labels": (lambda c: c["model"].update({"net.pos_embed": torch.ones(3, dtype=torch.long)}), "is of torch.int64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_is_refused_on_one_line(tmp_path, capsys, case):
    spoil, said = WRONG[case]
    content = official_content(golden_state())
    spoil(content)
    line = import_refusal(capsys, tmp_path, content)
    assert said in line
    assert "official.pth" in line


def test_what_no_tensor_says_must_be_given(tmp_path, capsys):
    source = save(official_content(golden_state()), tmp_path / "official.pth")
    command = ("checkpoint", "import", source, "--out", tmp_path / "out.ckpt")
    assert "add --in-context-start BLOCK" in refusal(capsys, *command, "--scale", "imagenet64")
    assert "add --scale NAME, one of" in refusal(capsys, *command, "--in-context-start", "2")


@pytest.mark.parametrize("verb", ["import", "export"])
def test_missing_damaged_and_foreign_files_are_refused(tmp_path, capsys, verb):
    out = ("--out", tmp_path / "out")
    assert "no such" in refusal(capsys, "checkpoint", verb, tmp_path / "none.pth", *out)
    source = save(official_content(golden_state()), tmp_path / "whole.pth")
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(source.read_bytes()[:5000])
    assert "damaged" in refusal(capsys, "checkpoint", verb, damaged, *out)
    refusal(capsys, "checkpoint", verb, save([1, 2], tmp_path / "list.pth"), *out)
    if verb == "export":
        assert "official layout" in refusal(capsys, "checkpoint", verb, save({"model": {}}, tmp_path / "o.pth"), *out)


@pytest.mark.parametrize("choice", ["raw", "ema0.9996", None])
def test_one_average_is_exported_as_safetensors(tmp_path, choice):
    from safetensors.torch import load_file

    content = official_content(golden_state())
    checkpoint, out = imported(tmp_path, content), tmp_path / "weights.safetensors"
    words = ["--weights", choice] if choice else []
    command = ["checkpoint", "export", str(checkpoint), "--out", str(out), "--format", "safetensors"]
    assert cli.main([*command, *words]) == 0
    weights = load_file(out)
    network, _ = golden.load("tiny")
    network.load_state_dict(weights, strict=True)
    key = {"raw": "model", "ema0.9996": "model_ema2", None: "model_ema1"}[choice]
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, content[key][f"net.{name}"])


def test_an_unknown_average_is_refused(tmp_path, capsys):
    checkpoint = imported(tmp_path, official_content(golden_state()))
    capsys.readouterr()
    words = ("--out", tmp_path / "w", "--format", "safetensors", "--weights", "ema0.5")
    assert "raw, ema0.9999, ema0.9996" in refusal(capsys, "checkpoint", "export", checkpoint, *words)


@pytest.mark.parametrize("key", ["model", "model_ema1"])
def test_fixed_positions_in_one_set_of_weights_alone_come_back_there(tmp_path, key):
    content = official_content(golden_state())
    network, _ = golden.load("tiny")
    fixed = {f"net.feat_rope.freqs_{part}": getattr(network.rope, part).clone() for part in ("cos", "sin")}
    content[key] = {**fixed, **content[key]}
    checkpoint, out = imported(tmp_path, content), tmp_path / "again.pth"
    assert cli.main(["checkpoint", "export", str(checkpoint), "--out", str(out)]) == 0
    assert_same(load_official(out), content)


@pytest.mark.parametrize("args", [{"lr": 1}, None, argparse.Namespace(inner=argparse.Namespace(model="tiny"))])
def test_a_command_line_comes_back_as_what_it_was(tmp_path, args):
    content = {**official_content(golden_state()), "args": args}
    checkpoint, out = imported(tmp_path, content), tmp_path / "again.pth"
    # As Lightning opens it: it knows of no Namespace.
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3
    assert cli.main(["checkpoint", "export", str(checkpoint), "--out", str(out)]) == 0
    assert_same(load_official(out), content)


@pytest.mark.parametrize("verb", ["import", "export", "safetensors"])
def test_a_file_is_not_written_onto_itself_or_a_folder(tmp_path, capsys, verb):
    content = official_content(golden_state())
    source = save(content, tmp_path / "official.pth") if verb == "import" else imported(tmp_path, content)
    command = ["checkpoint", "import" if verb == "import" else "export", source]
    command += ["--format", "safetensors"] if verb == "safetensors" else []
    command += ["--scale", "imagenet64", "--in-context-start", "2"] if verb == "import" else []
    before = source.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(source)
    capsys.readouterr()
    for out in (source, link, tmp_path / "." / source.name):
        assert f"--out {out}: is the file that is read" in refusal(capsys, *command, "--out", out)
    assert f"--out {tmp_path}: is a folder; name a file" in refusal(capsys, *command, "--out", tmp_path)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.ema_decays=[0.5,0.6]", "is decided by --ema-decays, [0.9999, 0.9996]; use --ema-decays"),
        ("model.rope=false", "official.pth, True; leave it out"),
        ("model.depth=3", "official.pth, 4; leave it out"),
        ("model.in_context_start=1", "use --in-context-start"),
        ("data.image_size=64", "official.pth, 32; leave it out"),
        ("data.num_classes=7", "leave it out"),
        ("objective.prediction=v", "official.pth, x; leave it out"),
        ("train.betas=[0.5,0.6]", "official.pth, [0.9, 0.95]; leave it out"),
    ],
)
def test_what_the_file_decides_is_not_overridden(tmp_path, capsys, word, said):
    line = import_refusal(capsys, tmp_path, official_content(golden_state()), word)
    assert said in line
    assert word.partition("=")[0] in line


@pytest.mark.parametrize("decays", ["2,3", "0.5,0.5"])
def test_decays_are_blamed_on_their_option(tmp_path, capsys, decays):
    line = import_refusal(capsys, tmp_path, official_content(golden_state()), "--ema-decays", decays)
    assert line.startswith("jitlab: --ema-decays: ")


def test_a_block_for_class_tokens_that_there_are_not_is_refused(tmp_path, capsys):
    content = official_content(golden_state())
    for key in ("model", "model_ema1", "model_ema2"):
        del content[key]["net.in_context_posemb"]
    assert "--in-context-start 2: " in import_refusal(capsys, tmp_path, content)


def test_the_recipe_is_that_of_the_scale_with_the_images_of_the_file(tmp_path):
    config = open_checkpoint(imported(tmp_path, official_content(golden_state()), "train.steps=7")).config
    scale = load.flat(load.resolve(ROOT, load.load_question(ROOT, "noise_vs_x"), "imagenet64", "x", []))
    ours = load.flat(config)
    found = {key for key in ours if ours[key] != scale[key]}
    assert found - {key for key in found if key.startswith("model.")} == {
        "data.image_size",
        "data.num_classes",
        "train.ema_decays",
        "train.steps",
        "sampler.guidance_interval",  # the question's own
    }


def test_outside_a_repository_there_is_no_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JITLAB_ROOT", str(tmp_path))
    assert "expected a jitlab repository" in import_refusal(capsys, tmp_path, official_content(golden_state()))


def test_import_says_what_it_found_and_nothing_else(tmp_path, capfd):
    content = official_content(golden_state())
    imported(tmp_path, content)
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.endswith("averages 0.9999, 0.9996, step 3\n")
    assert len(said.out.splitlines()) == 1
    del content["optimizer"]
    imported(tmp_path, content)
    assert "epoch 5 without the optimizer's state: training starts at step 0" in capfd.readouterr().out.splitlines()[1]


FOREIGN = {
    "objective.prediction=v": "objective.prediction = v",
    "model.rope=false": "model.rope = False",
    "model.qk_norm=false": "model.qk_norm = False",
    "model.norm=layernorm": "model.norm = layernorm",
    "model.mlp=gelu": "model.mlp = gelu",
    "model.bottleneck_dim=0": "model.bottleneck_dim = 0",
}


@pytest.mark.parametrize("word", FOREIGN)
def test_a_network_that_the_official_layout_cannot_describe_is_not_written_as_it(tmp_path, capsys, shards, word):
    config = load.assemble(load.flat(tiny_config(shards)), "test", load.from_words([word]))
    module = build.build_module(config)
    weights = module.network.state_dict()
    content = {
        **state_at(config, module, 0, {}, [{}, {}]),
        "state_dict": {f"network.{name}": tensor for name, tensor in weights.items()},
        "ema": {decay: dict(module.network.named_parameters()) for decay in ("0.5", "0.9")},
    }
    source, out = save(content, tmp_path / "last.ckpt"), tmp_path / "out.pth"
    line = refusal(capsys, "checkpoint", "export", source, "--out", out)
    assert f"{source}: {FOREIGN[word]}: the official layout is of networks with" in line
    assert not out.exists()


def test_the_epoch_is_the_last_whole_one_of_the_run(tmp_path, shards):
    config = tiny_config(shards, train__steps=9, train__checkpoint_every_steps=1)
    out = tmp_path / "out.pth"
    for step, epoch in {3: None, 5: 0, 8: 1}.items():
        train(config, tmp_path, stop_after=step)
        assert cli.main(["checkpoint", "export", str(tmp_path / "last.ckpt"), "--out", str(out)]) == 0
        assert load_official(out).get("epoch") == epoch


def test_the_weight_that_does_not_fit_is_the_same_in_every_call(tmp_path):
    checkpoint = open_checkpoint(imported(tmp_path, official_content(golden_state())))
    state = checkpoint.content["state_dict"]
    for name in list(state):
        state[name] = state[name][None]
    with pytest.raises(UserError, match=": in_context_posemb: shape"):
        checkpoint.module("raw")


def test_a_verb_that_cannot_start_over_does_not_say_so(tmp_path, capsys):
    (tmp_path / "README.md").write_text("no checkpoint")
    line = refusal(capsys, "sample", tmp_path / "README.md", "--classes", "1", "--out", tmp_path / "out")
    assert "--fresh" not in line
    assert "name a checkpoint that jitlab wrote" in line
