"""What a run costs before it is run: images that it trains on, and floating-point operations."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab import build
from jitlab.callbacks.evaluation import T_BINS
from jitlab.callbacks.schedule import times_due
from jitlab.config.schema import Config, Data, Model, Sampler
from jitlab.diffusion.guidance import acts
from jitlab.diffusion.samplers import SOLVERS, Churn
from jitlab.diffusion.time_grid import time_grid


@dataclass(frozen=True)
class Budget:
    """Images that are trained on, and floating-point operations (2 for a multiply-add) of training and evaluation."""

    images: int
    training_flops: int
    evaluation_flops: int

    @property
    def flops(self) -> int:
        """Return the operations of training and evaluation together."""
        return self.training_flops + self.evaluation_flops

    def __add__(self, other: "Budget") -> "Budget":
        return Budget(
            self.images + other.images,
            self.training_flops + other.training_flops,
            self.evaluation_flops + other.evaluation_flops,
        )


def run_budget(config: Config) -> Budget:
    """Count the network's part in a run; evaluation takes in grids, denoising strip and held-out batch.

    Left out, as small beside it: the class head of Table 11, optimizer and averages, feature extractors.
    """
    found, images = build.network_cost(config), config.train.steps * config.train.batch_size
    evaluation, steps, averages = config.evaluation, config.train.steps, len(config.train.ema_decays)
    generated = times_due(steps, evaluation.every_steps) * averages * evaluation.images
    # Grids are drawn from the raw weights, too.
    generated += times_due(steps, evaluation.grid_every_steps) * (averages + 1) * evaluation.grid_images
    generated += sum(map(len, build.strip_groups(config)))
    held_out = times_due(steps, evaluation.held_out_every_steps) * averages * T_BINS * evaluation.held_out_images
    forwards = generated * forwards_per_image(config.sampler) + held_out
    return Budget(images, images * found.training_flops, forwards * found.forward_flops)


def forwards_per_image(sampler: Sampler) -> int:
    """Count the network's forward passes for one generated image; two for a velocity on which guidance acts."""
    forwards = 0

    def velocity(z: Tensor, t: float) -> Tensor:
        nonlocal forwards
        forwards += 2 if acts(t, sampler.guidance_scale, sampler.guidance_interval) else 1
        return z

    nothing = torch.zeros(())
    times = time_grid(sampler.steps, sampler.shift, sampler.times)
    SOLVERS[sampler.solver](velocity, nothing, times, Churn(sampler.churn, lambda _: nothing))
    return forwards


def heaviest(configs: Iterable[Config]) -> Config:
    """Return a run with the network and batch that most of all these runs' operations go through."""
    flops: Counter[tuple[Data, Model, int]] = Counter()
    having: dict[tuple[Data, Model, int], Config] = {}
    for config in configs:
        key = config.data, config.model, config.train.batch_size
        flops[key] += run_budget(config).flops
        having.setdefault(key, config)
    return having[flops.most_common(1)[0][0]]
