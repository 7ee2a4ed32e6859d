"""How fast this machine trains: a few seconds of real steps, as floating-point operations per second."""

import itertools
import math
import time
from dataclasses import dataclass, replace

import torch

from jitlab import build
from jitlab.callbacks.stopwatch import Stopwatch
from jitlab.config.schema import Config, device_share
from jitlab.errors import RunError
from jitlab.training.module import JiTModule

LEAST = 4
"""Parts of steps that should fit into the time, those of the warm-up among them."""
EXPECTED_SHARE = 0.4
"""Of the speed of a large matrix product, what training may be expected to reach."""
PROBE_SIDE = 1024
PROBE_SECONDS = 0.1


@dataclass(frozen=True)
class Speed:
    """Operations per second in training, and on how many images at a time and blocks of the network it was found."""

    flops_per_second: float
    images: int
    blocks: int


def measure(config: Config, seconds: float) -> Speed:
    """Train a run's network for so many seconds, building it and a warm-up included, and return its speed.

    These are a run's own steps on this device and in its precision: noise and t, forward, backward, AdamW. Left out
    are what reads the data (one batch of noise is used over and over), averages, logs, checkpoints, torch.compile and
    further devices. A step that would take too long, or too much of a GPU's memory, is taken in parts of fewer images;
    where one image does, with fewer of the network's blocks, which are all alike.

    Raises:
        RunError: where not even one image and one block fit into the GPU's memory.
    """
    ends = time.perf_counter() + seconds
    blocks, images = _fitting(config, _peak(config) * EXPECTED_SHARE * seconds / LEAST)
    while True:
        shallow = _with_blocks(config, blocks)
        try:
            images_per_second = _train(shallow, images, ends)
            return Speed(images_per_second * build.network_cost(shallow).training_flops, images, blocks)
        except torch.OutOfMemoryError as error:
            if (blocks, images) == (1, 1):
                raise RunError(f"{build.hardware()}: out of memory with one image and one block") from error
        blocks, images = (blocks, images // 2) if images > 1 else (blocks // 2, 1)


def _train(config: Config, images: int, ends: float) -> float:
    """Take steps in parts of so many images until `ends` (of time.perf_counter); return images per second."""
    module, stopwatch = build.build_module(config), Stopwatch(ends)
    # Parts as they would be accumulated: the optimizer has the share of the time that it has in a run.
    trainer = build.build_bare_trainer(config, math.ceil(device_share(config.train) / images), stopwatch)
    try:
        trainer.fit(module, train_dataloaders=itertools.repeat(_samples(config, module, images)))
    except SystemExit as error:
        # What Lightning makes of Ctrl-C.
        raise KeyboardInterrupt from error
    return stopwatch.batches_per_second * images


def _samples(config: Config, module: JiTModule, images: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    samples = module.signal.from_signal(torch.randn(images, *module.signal.shape))
    return samples, torch.arange(images) % build.num_classes(config), [""] * images


def _peak(config: Config) -> float:
    """Return the operations per second of a large matrix product in the run's precision."""
    matrix = torch.randn(PROBE_SIDE, PROBE_SIDE, device="cuda" if torch.cuda.is_available() else "cpu")

    def seconds() -> float:
        started = time.perf_counter()
        # Reading one number waits for the device.
        (matrix @ matrix)[0, 0].item()
        return time.perf_counter() - started

    with build.precision_context(config):
        started, fastest = time.perf_counter(), seconds()
        while time.perf_counter() < started + PROBE_SECONDS:
            fastest = min(fastest, seconds())
    return 2 * PROBE_SIDE**3 / fastest


def _fitting(config: Config, flops: float) -> tuple[int, int]:
    """Return how many blocks, and images at a time, take at most so many operations; one of each at the least."""
    images = int(flops / build.network_cost(config).training_flops)
    if images:
        return config.model.depth, min(images, config.train.device_batch_size or device_share(config.train))
    return max(1, int(config.model.depth * flops / build.network_cost(config).training_flops)), 1


def _with_blocks(config: Config, blocks: int) -> Config:
    """Return a device's share of a run, uncompiled, with so many blocks; as large a part of them sees class tokens."""
    model, objective, depth = config.model, config.objective, config.model.depth
    if blocks < depth:
        # Its classifier sits behind a block of the whole network.
        model = replace(
            model, depth=blocks, in_context_start=model.in_context_start * blocks // depth, class_head_block=0
        )
        objective = replace(objective, class_loss_weight=0.0)
    train = replace(config.train, batch_size=device_share(config.train), devices=1, device_batch_size=0, compile=False)
    return replace(config, model=model, objective=objective, train=train)
