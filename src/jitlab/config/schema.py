"""Every setting there is: its type, default, range, unit and meaning, stated here and nowhere else."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from omegaconf import MISSING

from jitlab.errors import nearest

SPACES = ("x", "eps", "v")
PREDICTIONS = (*SPACES, "edm", "linear")
STOCHASTIC = "euler_maruyama"
FEATURES, TIMM = ("pixels", "inception"), "timm:"
# What decides which of the others have an effect.
DECIDING = ("data.source", "model.architecture")
# What has no effect where samples are points, or images, and what the MLP and a network without classes know of.
IMAGE_SETTINGS = (
    "data.path",
    "data.image_size",
    "data.num_classes",
    "data.flip",
    "data.decoder",
    "data.window_shards",
    "data.partitions",
    "data.cache",
    "data.cache_gb",
    "data.skip_damaged",
    "evaluation.features",
    "evaluation.reference",
    "evaluation.reference_images",
)
POINT_SETTINGS = ("data.ambient_dim",)
CLASS_SETTINGS = (
    "objective.label_drop",
    "objective.class_loss_weight",
    "sampler.guidance_scale",
    "sampler.guidance_interval",
)
MLP_SETTINGS = ("model.architecture", "model.hidden_size", "model.depth")
MOST = 2**63 - 1


def setting(
    default: Any,
    doc: str,
    *,
    within: str = "",
    choices: tuple[str, ...] = (),
    neutral: bool = False,
) -> Any:
    """Declare one setting.

    `within` is an interval such as `[1, inf)` or `(0, 1)`; for tuples it holds for every element.
    `choices` are the allowed words. A `neutral` setting changes where or how fast a run goes but not
    what it computes, so it may change under a run that is resumed.
    """
    metadata = {"doc": doc, "within": within, "choices": choices, "neutral": neutral}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Data:
    """Where the samples come from."""

    source: str = setting(
        MISSING, "data set: images in shards, or a spiral of points", choices=("digits", "imagenet", "spiral")
    )
    path: str = setting(
        MISSING, "folder of the shards, relative to the repository or absolute, or its URL", neutral=True
    )
    cache: str = setting("data/cache", "folder for local copies of the shards at a URL", neutral=True)
    cache_gb: float = setting(
        100.0, "what data.cache may hold, in units of 10^9 bytes", within="(0, inf)", neutral=True
    )
    skip_damaged: int = setting(
        0, "damaged samples that are replaced by others before the run is stopped", within="[0, inf)", neutral=True
    )
    image_size: int = setting(MISSING, "height and width of an image, pixels", within="[8, inf)")
    num_classes: int = setting(MISSING, "classes; the label of no class is one more", within="[1, inf)")
    ambient_dim: int = setting(MISSING, "dimensions that the spiral is placed in", within="[2, inf)")
    flip: bool = setting(False, "mirror every image with probability one half")
    decoder: str = setting(
        "fast",
        "decoding and cropping of training images: fast is at most 2 of 255 grey levels off exact, Pillow's",
        choices=("fast", "exact"),
    )
    window_shards: int = setting(16, "shards whose samples are mixed with each other", within="[1, inf)")
    partitions: int = setting(
        1, "groups of shards with orders of their own; the nodes of a cluster without a shared disk", within="[1, inf)"
    )
    ledger: bool = setting(False, "write down the sample keys of every step; some 20 bytes a sample", neutral=True)
    workers: int = setting(0, "loader processes of each training process", within="[0, 256]", neutral=True)


@dataclass(frozen=True)
class Model:
    """The JiT transformer (Table 9), or the toy experiment's MLP (Sec. 3.3)."""

    architecture: str = setting("jit", "network: jit for images, mlp for points", choices=("jit", "mlp"))
    patch_size: int = setting(MISSING, "height and width of a patch, pixels", within="[1, inf)")
    hidden_size: int = setting(MISSING, "width of a token, or of the MLP's hidden layers", within="[4, inf)")
    depth: int = setting(MISSING, "transformer blocks, or linear layers of the MLP", within="[1, inf)")
    num_heads: int = setting(MISSING, "attention heads", within="[1, inf)")
    mlp_ratio: float = setting(4.0, "hidden width of a block's MLP over hidden_size", within="(0, inf)")
    bottleneck_dim: int = setting(MISSING, "width of the patch embedding's bottleneck; 0 for none", within="[0, inf)")
    in_context_tokens: int = setting(32, "class tokens put before the patches; 0 for none", within="[0, inf)")
    in_context_start: int = setting(0, "block that is the first to see the class tokens", within="[0, inf)")
    rope: bool = setting(True, "rotary positions (Table 4)")
    qk_norm: bool = setting(True, "normalise queries and keys (Table 4)")
    norm: str = setting("rmsnorm", "normalisation of the blocks (Table 4)", choices=("rmsnorm", "layernorm"))
    mlp: str = setting("swiglu", "MLP of the blocks (Table 4)", choices=("swiglu", "gelu"))
    dropout: float = setting(0.0, "dropout of attention and MLP in the middle half of the blocks", within="[0, 1)")
    class_head_block: int = setting(
        0, "blocks that see no class and end in a linear classifier (Table 11); 0 for none", within="[0, inf)"
    )


@dataclass(frozen=True)
class Objective:
    """What is predicted, and how its error is measured (Table 1, Table 9)."""

    prediction: str = setting(
        "x", "what the network's output is read as; edm and linear precondition x (Table 10)", choices=PREDICTIONS
    )
    loss_space: str = setting("v", "space of the squared error", choices=SPACES)
    time_mu: float = setting(-0.8, "mean of the logit-normal t", within="(-inf, inf)")
    time_sigma: float = setting(0.8, "standard deviation of the logit-normal t", within="(0, inf)")
    noise_scale: float = setting(1.0, "standard deviation of eps", within="(0, inf)")
    clip_one_minus_t: float = setting(0.05, "least value of a denominator 1 - t in training", within="(0, 1)")
    clip_t: float = setting(0.05, "least value of a denominator t (eps-prediction) in training", within="(0, 1)")
    label_drop: float = setting(0.1, "share of labels replaced by no class", within="[0, 1]")
    class_loss_weight: float = setting(
        0.0,
        "weight of model.class_head_block's cross-entropy against the squared error's sum over an image; 0 for none",
        within="[0, inf)",
    )


@dataclass(frozen=True)
class Sampler:
    """How images are generated."""

    solver: str = setting(
        "heun", "solver of dz/dt = v, or of an SDE with its marginals", choices=("euler", "heun", "ab2", STOCHASTIC)
    )
    churn: float = setting(1.0, f"strength of the noise that {STOCHASTIC} adds on the way", within="(0, inf)")
    steps: int = setting(50, "steps from t = 0 to t = 1", within="[1, inf)")
    shift: float = setting(
        1.0, "factor on (1 - t) / t of the even time grid; above 1 more steps near the noise", within="[0.01, 100]"
    )
    times: tuple[float, ...] = setting(
        (), "the time grid in full, from 0 to 1; empty for the even one", within="[0, 1]"
    )
    guidance_scale: float = setting(1.0, "classifier-free guidance; 1 is none", within="[0, inf)")
    guidance_interval: tuple[float, float] = setting((0.1, 1.0), "t in which guidance acts", within="[0, 1]")
    clip_one_minus_t: float = setting(0.05, "least value of a denominator 1 - t in sampling", within="(0, 1)")
    clip_t: float = setting(0.05, "least value of a denominator t (eps-prediction) in sampling", within="(0, 1)")


@dataclass(frozen=True)
class Train:
    """The optimisation; its x-axis is the optimizer step."""

    steps: int = setting(MISSING, "optimizer steps", within="[1, inf)")
    batch_size: int = setting(MISSING, "images of an optimizer step, over all devices", within="[1, inf)")
    devices: int = setting(
        1, "GPUs that share train.batch_size; processes where there is no GPU", within="[1, inf)", neutral=True
    )
    device_batch_size: int = setting(
        0,
        "images that a device takes at a time, adding up gradients; 0 for all of its share",
        within="[0, inf)",
        neutral=True,
    )
    learning_rate: float = setting(2e-4, "constant rate after the warm-up", within="(0, inf)")
    warmup_steps: int = setting(0, "steps of linear warm-up", within="[0, inf)")
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", within="[0, inf)")
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW's momenta", within="[0, 1)")
    ema_decays: tuple[float, ...] = setting(
        (0.9999,), "decays of the averages; the first one is evaluated under the plain keys", within="[0, 1)"
    )
    precision: str = setting(
        "auto",
        "arithmetic; auto is bf16 autocast where the GPU has it, else float32",
        choices=("auto", "float32", "bf16"),
    )
    compile: bool = setting(False, "torch.compile the network")
    log_every_steps: int = setting(50, "steps between two points of a training curve", within="[1, inf)")
    checkpoint_every_steps: int = setting(1000, "steps between two checkpoints", within="[1, inf)", neutral=True)


@dataclass(frozen=True)
class Evaluation:
    """Distances, held-out errors and sample grids on the way; the last step always has all of them."""

    every_steps: int = setting(MISSING, "steps between two evaluations", within="[1, inf)")
    images: int = setting(MISSING, "images that an evaluation generates", within="[2, inf)")
    features: str = setting(
        "pixels",
        "what the Frechet distance is of: pixels, inception (the FID; its weights are the file that "
        "JITLAB_INCEPTION_WEIGHTS names, else downloaded), or timm: and the name of one of timm's networks",
    )
    reference: str = setting(
        "",
        "file that jitlab evaluate reference wrote, relative to the repository or absolute, whose statistics generated "
        "images are compared with; nothing for those of evaluation.reference_images training images, whose features "
        "every process then computes itself at the first evaluation (published figures are against all of them)",
    )
    reference_images: int = setting(
        0,
        "training images, the first of the shards, whose patches generated ones are compared with, and without "
        "evaluation.reference their features; 0 for all",
        within="[0, inf)",
    )
    batch_size: int = setting(250, "images generated, or read to compare, at a time", within="[1, inf)", neutral=True)
    held_out_every_steps: int = setting(MISSING, "steps between two looks at the held-out batch", within="[1, inf)")
    held_out_images: int = setting(128, "images of the fixed held-out batch", within="[1, inf)")
    grid_every_steps: int = setting(MISSING, "steps between two sample grids", within="[1, inf)")
    grid_images: int = setting(80, "images of a sample grid, eight a row", within="[1, 1024]")


@dataclass(frozen=True)
class Config:
    """The resolved configuration of one run."""

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    objective: Objective = dataclasses.field(default_factory=Objective)
    sampler: Sampler = dataclasses.field(default_factory=Sampler)
    train: Train = dataclasses.field(default_factory=Train)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    seed: int = setting(0, "seeds everything random; set per run by --seeds", within="[0, inf)")


def settings(node: type = Config, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Return every setting by its dotted name, in the order of the schema."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(node):
        if field.metadata:
            found[prefix + field.name] = field
        else:
            found |= settings(field.type, f"{prefix}{field.name}.")  # type: ignore[arg-type]
    return found


def range_fault(field: dataclasses.Field[Any], value: Any) -> str | None:
    """Say what was expected of `value` where it is outside the field's range or choices."""
    choices, within = field.metadata["choices"], field.metadata["within"]
    if isinstance(value, int) and value > MOST:
        return f"expected a whole number of at most {MOST}"
    if choices and value not in choices:
        import difflib

        close = difflib.get_close_matches(str(value), choices, n=1)
        return f"expected one of {', '.join(choices)}" + (f"; did you mean '{close[0]}'?" if close else "")
    if within:
        elements = value if isinstance(value, tuple | list) else (value,)
        if not all(_inside(element, within) for element in elements):
            return f"expected a value in {within}"
    return None


def _inside(value: float, within: str) -> bool:
    low, high = (float(bound) for bound in within[1:-1].split(","))
    above = value >= low if within[0] == "[" else value > low
    below = value <= high if within[-1] == "]" else value < high
    return above and below


def misfit(choices: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a `model.architecture` that does not take the samples of `data.source`."""
    fitting = "mlp" if choices["data.source"] == "spiral" else "jit"
    if choices["model.architecture"] == fitting:
        return None
    return f"does not take data.source = {choices['data.source']}; use {fitting}, at a scale made for it"


def idle(key: str, choices: Mapping[str, Any]) -> str | None:
    """Return the choice, as `setting = word`, that leaves setting `key` without effect; None where it has one.

    `choices` holds the values of the `DECIDING` settings.
    """
    points = choices["data.source"] == "spiral"
    if key in IMAGE_SETTINGS if points else key in POINT_SETTINGS:
        return f"data.source = {choices['data.source']}"
    without_classes = key in CLASS_SETTINGS or (key.startswith("model.") and key not in MLP_SETTINGS)
    if choices["model.architecture"] == "mlp" and without_classes:
        return "model.architecture = mlp"
    return None


def idle_value(field: dataclasses.Field[Any]) -> Any:
    """Return what a setting without effect holds: its default, else nothing or zero."""
    return field.type() if field.default == MISSING else field.default  # type: ignore[operator]


def conflicts(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (setting, what is wrong and how to mend it) for settings that do not fit each other."""
    yield from _model_conflicts(config)
    yield from _sampler_conflicts(config.sampler)
    yield from sharing_conflicts(config)
    yield from _partition_conflicts(config)
    low, high = config.sampler.guidance_interval
    if low >= high:
        fix = f"write [{high}, {low}]" if low > high else "the first number must be below the second"
        yield "sampler.guidance_interval", f"holds no t; {fix}"
    decays = config.train.ema_decays
    if not decays or len(set(decays)) != len(decays):
        yield "train.ema_decays", "expected at least one decay and none twice"
    yield from _feature_conflicts(config.evaluation.features)
    if config.evaluation.reference_images == 1:
        yield "evaluation.reference_images", "one image has no covariance; use 2 or more, or 0 for all"
    if config.evaluation.images < config.data.num_classes:
        yield (
            "evaluation.images",
            f"is less than one image a class; use at least data.num_classes = {config.data.num_classes}",
        )


def _feature_conflicts(name: str) -> Iterator[tuple[str, str]]:
    if name not in FEATURES and (not name.startswith(TIMM) or name == TIMM):
        yield "evaluation.features", f"no such features; {nearest(name, [*FEATURES, f'{TIMM}NETWORK'])}"


def _model_conflicts(config: Config) -> Iterator[tuple[str, str]]:
    model, size = config.model, config.data.image_size
    if model.architecture == "mlp":
        return
    if size % model.patch_size:
        fits = ", ".join(str(p) for p in range(1, size + 1) if size % p == 0)
        yield "model.patch_size", f"does not divide data.image_size = {size}; use one of {fits}"
    if model.rope and model.hidden_size % (4 * model.num_heads):
        yield (
            "model.hidden_size",
            f"is not a multiple of 4 x model.num_heads = {4 * model.num_heads}, as 2-D rotary positions need",
        )
    if model.hidden_size % math.lcm(4, model.num_heads):
        multiple = math.lcm(4, model.num_heads)
        yield "model.hidden_size", f"is not a multiple of {multiple}, as 2-D positions and model.num_heads need"
    yield from _class_head_conflicts(config)
    if model.in_context_tokens and model.in_context_start >= model.depth:
        yield (
            "model.in_context_start",
            f"no block would see the class tokens; use less than model.depth = {model.depth}"
            " or model.in_context_tokens=0",
        )


def _class_head_conflicts(config: Config) -> Iterator[tuple[str, str]]:
    model, weight = config.model, config.objective.class_loss_weight
    if bool(model.class_head_block) != bool(weight):
        yield (
            "model.class_head_block",
            f"does not go with objective.class_loss_weight = {weight:g}: a classifier needs a loss and a loss a "
            "classifier; set both, or both to 0",
        )
    if model.class_head_block > model.depth:
        yield "model.class_head_block", f"is behind the last block; use at most model.depth = {model.depth}"
    if model.in_context_tokens and model.in_context_start < model.class_head_block:
        yield (
            "model.in_context_start",
            f"would show the class to blocks that must not see it; use model.class_head_block = "
            f"{model.class_head_block} or more",
        )


def device_share(train: Train) -> int:
    """Return the images of an optimizer step that are a device's."""
    return train.batch_size // train.devices


def parts(train: Train) -> int:
    """Return in how many parts a device takes its share of an optimizer step."""
    return math.ceil(device_share(train) / train.device_batch_size) if train.device_batch_size else 1


def sharing_conflicts(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (setting, what is wrong) where a batch is not shared in equal parts."""
    batch_size, devices, limit = config.train.batch_size, config.train.devices, config.train.device_batch_size
    share = device_share(config.train)
    if batch_size % devices:
        yield "train.devices", f"cannot share train.batch_size = {batch_size} evenly; use {_near(devices, batch_size)}"
    elif 0 < limit < share and share % limit:
        yield (
            "train.device_batch_size",
            f"does not divide the {share} images of a device (train.batch_size = {batch_size} over train.devices = "
            f"{devices}); use {_near(limit, share)}",
        )
    if config.evaluation.images < devices:
        yield "train.devices", f"is more than evaluation.images = {config.evaluation.images}; use at most that"


def _partition_conflicts(config: Config) -> Iterator[tuple[str, str]]:
    batch_size, partitions = config.train.batch_size, config.data.partitions
    if batch_size % partitions:
        yield (
            "data.partitions",
            f"cannot share train.batch_size = {batch_size} evenly; use {_near(partitions, batch_size)}",
        )


def _near(number: int, whole: int) -> str:
    """Name the divisors of `whole` on both sides of a number that is none."""
    below = next(n for n in range(min(number, whole), 0, -1) if whole % n == 0)
    above = next((n for n in range(number, whole + 1) if whole % n == 0), None)
    return f"{below} or {above}" if above else str(below)


def _sampler_conflicts(sampler: Sampler) -> Iterator[tuple[str, str]]:
    if sampler.churn != Sampler.churn and sampler.solver != STOCHASTIC:
        yield "sampler.churn", f"{sampler.solver} adds no noise; use sampler.solver={STOCHASTIC} or leave churn out"
    times, steps = sampler.times, len(sampler.times) - 1
    if not times:
        return
    if times[0] != 0 or times[-1] != 1 or any(t >= later for t, later in pairwise(times)):
        yield "sampler.times", "expected times that rise from 0 to 1, none twice, such as [0, 0.3, 0.7, 1]"
    elif sampler.steps != steps:
        yield "sampler.steps", f"sampler.times has {steps} steps; write sampler.steps={steps}"
    if sampler.shift != 1:
        yield "sampler.shift", "sampler.times is used as it is; write sampler.shift=1, or sampler.times=[] for a grid"
