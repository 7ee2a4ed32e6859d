"""The published figures and the paper's scale against a copy of the paper's own tables."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from jitlab import build
from jitlab.config import load
from jitlab.config.schema import Config

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
PAPER_FILE = (GOLDEN / "paper_tables.yaml").read_text()
PAPER = yaml.safe_load(PAPER_FILE)
FIGURES = yaml.safe_load((ROOT / "experiments" / "published" / "figures.yaml").read_text())
RECIPE = PAPER["recipe"]
SIZES = {64: "imagenet64", 256: "imagenet256", 512: "imagenet512", 1024: "imagenet1024"}
IMAGENET_IMAGES = 1_281_167


def leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def ladder() -> dict[str, dict[str, float]]:
    rungs = {rung: text.split(" / ") for rung, text in PAPER["advanced_transformer"]["jit_b16"].items()}
    return {
        "cfg": {rung: float(both[0]) for rung, both in rungs.items()},
        "cfg_interval": {rung: float(both[1]) for rung, both in rungs.items()},
    }


def by_size(patch_size: int, key: str) -> dict[str, float]:
    return {size: PAPER["scaling"][f"JiT-{size}/{patch_size}"][key] for size in "BLHG"}


def cost(key: str) -> dict[str, float]:
    rows = {row["model"]: row for row in PAPER["resolution"]} | PAPER["scaling"]
    return {name.lower().replace("-", "_").replace("/", "_"): row[key] for name, row in rows.items()}


def paper_figures() -> dict[str, Any]:
    """Lay the paper's tables out as the project's file does."""
    shift = PAPER["noise_level_shift"]
    return {
        "prediction_x_loss": {
            name: {"values": PAPER["prediction_x_loss"][name]} for name in ("imagenet256_jit_b16", "imagenet64_jit_b4")
        },
        "noise_level": {
            "values": {
                space: {f"mu_{mu.replace('-', 'minus_')}": row[space] for mu, row in shift.items()}
                for space in ("x", "eps", "v")
            }
        },
        "bottleneck": {
            "values": {
                "width_128": float(re.findall(r"128 gives ([\d.]+);", PAPER["bottleneck_embedding"]["finding"])[0]),
                "none": float(re.findall(r"without bottleneck ([\d.]+);", PAPER_FILE)[0]),
            }
        },
        "ablation": {"jit_b16": {"values": ladder()}},
        "resolution": {
            "values": dict(
                zip(("side_1x", "side_2x", "side_4x"), (row["fid"] for row in PAPER["resolution"]), strict=True)
            )
        },
        "scaling": {
            f"imagenet{16 * patch}": {
                "values": {f"epochs_{epochs}": by_size(patch, f"fid_{epochs}") for epochs in (200, 600)}
            }
            for patch in (16, 32)
        },
        "preconditioner": {"values": PAPER["preconditioner"]},
        "classification_loss": {"values": {size: PAPER["classification_loss"][f"JiT-{size}/16"] for size in "BL"}},
        "network_cost": {"parameters_m": cost("params_m"), "gflops": cost("gflops")},
    }


def test_every_published_figure_is_the_paper_s():
    told = {path: value for path, value in leaves(FIGURES) if not path.endswith(("/table", "/metric"))}
    assert told == dict(leaves(paper_figures()))


@pytest.mark.parametrize(
    ("section", "figures"),
    [
        ("prediction_x_loss", "prediction_x_loss"),
        ("noise_level_shift", "noise_level"),
        ("bottleneck_embedding", "bottleneck"),
        ("advanced_transformer", "ablation"),
        ("resolution", "resolution"),
        ("scaling", "scaling"),
        ("preconditioner", "preconditioner"),
        ("classification_loss", "classification_loss"),
    ],
)
def test_every_published_figure_names_its_table(section, figures):
    kind, number = re.findall(rf"^{section}: +# (Tab|Fig)\. (\d+)", PAPER_FILE, re.MULTILINE)[0]
    tables = [value for path, value in leaves(FIGURES[figures]) if path.split("/")[-1] == "table"]
    assert tables
    assert {re.sub(r" \(.\)$", "", table) for table in tables} == {
        f"{ {'Tab': 'Table', 'Fig': 'Figure'}[kind] } {number}"
    }


def bare(scale: str) -> Config:
    """Return a scale as it is, without a question."""
    question = dataclasses.replace(load.load_question(ROOT, "noise_vs_x"), arms={"bare": {}}, at={})
    return load.resolve(ROOT, question, scale, "bare", [])


@pytest.mark.parametrize(("side", "scale"), SIZES.items())
def test_a_scale_of_imagenet_is_the_paper_s_recipe(side, scale):
    config, size = bare(scale), RECIPE["sizes"]["B"]
    epoch = IMAGENET_IMAGES // RECIPE["batch_size"]
    rate, time, guidance = RECIPE["optimizer"], RECIPE["time_sampler"], RECIPE["cfg"]
    assert RECIPE["patch_size"] == "image_size / 16"
    assert RECIPE["noise_scale"] == "image_size / 256"
    assert RECIPE["sampler"] == {"solver": "heun", "steps": 50, "grid": "linear in [0, 1], last step euler"}
    assert (rate["name"], rate["schedule"]) == ("Adam", "constant")
    told = load.flat(config)
    recipe = {
        "data.source": "imagenet",
        "data.path": f"data/imagenet{side}",
        "data.image_size": side,
        "data.num_classes": 1000,
        "data.flip": True,
        "model.patch_size": side // 16,
        "model.hidden_size": size["hidden"],
        "model.depth": size["depth"],
        "model.num_heads": size["heads"],
        "model.bottleneck_dim": size["bottleneck"],
        "model.in_context_tokens": RECIPE["in_context_class_tokens"],
        "model.in_context_start": size["in_context_start"],
        "model.dropout": size["dropout"],
        "model.rope": True,
        "model.qk_norm": True,
        "model.norm": "rmsnorm",
        "model.mlp": "swiglu",
        "objective.prediction": "x",
        "objective.loss_space": "v",
        "objective.time_mu": time["logit_normal_mu"],
        "objective.time_sigma": time["logit_normal_sigma"],
        "objective.noise_scale": max(1, side / 256),
        "objective.clip_one_minus_t": RECIPE["clip_of_one_minus_t"],
        "objective.label_drop": RECIPE["label_drop"],
        "sampler.solver": "heun",
        "sampler.steps": 50,
        "sampler.shift": 1,
        "sampler.times": (),
        "sampler.guidance_interval": tuple(guidance["interval"]),
        "sampler.clip_one_minus_t": RECIPE["clip_of_one_minus_t"],
        "train.steps": RECIPE["epochs"][0] * epoch,
        "train.batch_size": RECIPE["batch_size"],
        "train.learning_rate": rate["lr"],
        "train.warmup_steps": rate["warmup_epochs"] * epoch,
        "train.weight_decay": rate["weight_decay"],
        "train.betas": tuple(rate["betas"]),
        "train.ema_decays": tuple(sorted(RECIPE["ema_decay"], reverse=True)),
        "train.precision": "auto",
        "evaluation.images": 50_000,
    }
    assert {key: told[key] for key in recipe} == recipe
    low, high = guidance["scale_search"]
    assert low <= config.sampler.guidance_scale <= high
    assert (config.sampler.guidance_scale / guidance["step"]) == pytest.approx(
        round(config.sampler.guidance_scale / guidance["step"])
    )


def changed(name: str, scale: str, arm: str) -> dict[str, Any]:
    """Return the settings in which an arm at a scale departs from the scale, with their values."""
    config = load.resolve(ROOT, load.load_question(ROOT, name), scale, arm, [])
    return {key: load.flat(config)[key] for key in load.differing({"scale": bare(scale), "arm": config})}


EVERYWHERE = {"sampler.guidance_interval": (0.0, 1.0)}
WITHOUT = {"model.rope": False, "model.qk_norm": False, "model.in_context_tokens": 0}
SQUEEZED = EVERYWHERE | WITHOUT
TABLE_2 = SQUEEZED | {"model.bottleneck_dim": 0}


@pytest.mark.parametrize("scale", SIZES.values())
@pytest.mark.parametrize(
    ("name", "arm", "settings"),
    [
        ("noise_vs_x", "x", TABLE_2),
        ("noise_vs_x", "eps", TABLE_2 | {"objective.prediction": "eps"}),
        ("prediction_x_loss", "v_loss_x", TABLE_2),
        ("prediction_x_loss", "x_loss_v", TABLE_2 | {"objective.prediction": "v", "objective.loss_space": "x"}),
        ("prediction_x_loss_low_dim", "v_loss_x", TABLE_2),
        ("noise_level", "x_mu_minus_0.8", TABLE_2),
        ("noise_level", "v_mu_0.0", TABLE_2 | {"objective.prediction": "v", "objective.time_mu": 0.0}),
        ("preconditioner", "v_loss_x", TABLE_2),
        ("preconditioner", "v_loss_edm", TABLE_2 | {"objective.prediction": "edm"}),
        ("bottleneck", "none", TABLE_2),
        ("bottleneck", "width_128", SQUEEZED),
        ("bottleneck", "width_16", SQUEEZED | {"model.bottleneck_dim": 16}),
        ("ablation", "plain", TABLE_2 | {"model.mlp": "gelu", "model.norm": "layernorm"}),
        ("ablation", "swiglu_rmsnorm_unsqueezed", TABLE_2),
        ("ablation", "swiglu_rmsnorm", SQUEEZED),
        ("ablation", "rope_qknorm", EVERYWHERE | {"model.in_context_tokens": 0}),
        ("ablation", "in_context_class_tokens", EVERYWHERE),
        ("classification_loss", "v_loss_only", {}),
        ("classification_loss", "with_cls_loss", {"model.class_head_block": 4, "objective.class_loss_weight": 100.0}),
        ("scaling", "B", {}),
    ],
)
def test_an_arm_departs_from_the_recipe_as_the_paper_says_and_no_further(name, arm, settings, scale):
    assert changed(name, scale, arm) == settings


@pytest.mark.parametrize(("arm", "side"), [("side_1x", 256), ("side_2x", 512), ("side_4x", 1024)])
def test_each_resolution_is_the_scale_of_its_size(arm, side):
    config = load.resolve(ROOT, load.load_question(ROOT, "resolution"), "imagenet256", arm, [])
    row = next(row for row in PAPER["resolution"] if row["image"] == side)
    assert row["model"] == f"JiT-B/{config.model.patch_size}"
    assert row["patch_dim"] == build.CHANNELS * config.model.patch_size**2
    own, largest = bare(SIZES[side]), bare("imagenet1024")
    assert (config.model, config.objective, config.sampler) == (own.model, own.objective, own.sampler)
    assert config.data == dataclasses.replace(own.data, workers=largest.data.workers)
    assert config.evaluation == dataclasses.replace(largest.evaluation, reference=own.evaluation.reference)
    assert own.evaluation.reference.startswith(f"{own.data.path}/")
    assert round(parameters(config) / 1e6) == row["params_m"]


@pytest.mark.parametrize("scale", SIZES.values())
@pytest.mark.parametrize("arm", "BLHG")
def test_each_size_is_a_row_of_the_recipe(arm, scale):
    model = load.resolve(ROOT, load.load_question(ROOT, "scaling"), scale, arm, []).model
    row = RECIPE["sizes"][arm]
    assert row == {
        "depth": model.depth,
        "hidden": model.hidden_size,
        "heads": model.num_heads,
        "bottleneck": model.bottleneck_dim,
        "in_context_start": model.in_context_start,
        "dropout": model.dropout,
    }


@pytest.mark.parametrize(("scale", "patch"), [("imagenet256", 16), ("imagenet512", 32)])
@pytest.mark.parametrize("arm", "BLHG")
def test_each_size_has_the_parameters_that_the_paper_gives(arm, scale, patch):
    count = parameters(load.resolve(ROOT, load.load_question(ROOT, "scaling"), scale, arm, []))
    name = f"JiT-{arm}/{patch}"
    assert count == json.loads((GOLDEN / "parameter_counts.json").read_text())[name]["trainable"]
    # G's are given as 2 B.
    digits = -2 if arm == "G" else 0
    assert round(count / 1e6, digits) == PAPER["scaling"][name]["params_m"]


def parameters(config: Config) -> int:
    with torch.device("meta"):
        network = build.build_network(config)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_the_ladder_s_published_figures_are_of_the_guidance_that_is_run():
    question = load.load_question(ROOT, "ablation")
    assert question.published["imagenet256"].values == ladder()["cfg"]
    every = load.resolve(ROOT, question, "imagenet256", "rope_qknorm", ["sampler.guidance_interval=[0.1,1]"])
    assert every.sampler == bare("imagenet256").sampler
