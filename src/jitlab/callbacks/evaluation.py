"""Generates samples, measures them against the training set, and measures the network on a held-out batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from lightning import Trainer
from torch import Tensor

from jitlab.callbacks.ema import Ema
from jitlab.callbacks.run_log import log_metrics, metric_is_missing
from jitlab.callbacks.schedule import AfterCheckpoint, due
from jitlab.metrics.measure import Measure
from jitlab.randomness import image_noise
from jitlab.training.ema import Averages
from jitlab.training.module import JiTModule

WARN_INITIAL_SHARE = 0.1
T_BINS = 5


@dataclass(frozen=True)
class EvaluationSettings:
    """How often images are generated and measured, how many, in what batches; how often the held-out batch is."""

    every_steps: int
    held_out_every_steps: int
    images: int
    batch_size: int
    num_classes: int


class Evaluation(AfterCheckpoint):
    """Logs `eval/*` of generated images and `val/*` of the held-out batch for every average of the weights.

    The first average goes under the plain keys, the others under keys that end in `_ema<decay>`.
    """

    def __init__(
        self,
        ema: Ema,
        settings: EvaluationSettings,
        measure: Measure,
        held_out: tuple[Tensor, Tensor],
        pause: Callable[[], AbstractContextManager[None]],
        progress: Callable[[str, int, int], None],
        warn: Callable[[str], None],
    ) -> None:
        """Prepare an evaluation.

        Args:
            ema: the averages to evaluate.
            settings: how often and how much.
            measure: what is measured of generated samples.
            held_out: samples and labels of the fixed held-out batch.
            pause: keeps a block out of the throughput.
            progress: is told (what, images done, images in all).
            warn: is told what the researcher should know.
        """
        self.ema = ema
        self.settings = settings
        self.measure = measure
        self.held_out = held_out
        self.pause = pause
        self.progress = progress
        self.warn = warn

    def missing(self, trainer: Trainer) -> bool:
        """Say whether generated images or the held-out batch are due to be measured and were not."""
        return self._generation_is_missing(trainer) or self._held_out_is_missing(trainer)

    def look(self, trainer: Trainer, module: JiTModule) -> None:
        """Measure what is due with every average."""
        # Not weights that the run is about to be stopped for.
        module.refuse_non_finite()
        generate, held_out = self._generation_is_missing(trainer), self._held_out_is_missing(trainer)
        with self.pause():
            metrics: dict[str, float] = {}
            for decay in self.ema.decays:
                measured: dict[str, float] = {}
                with self.ema.applied(decay):
                    if held_out:
                        measured |= self._held_out_errors(module)
                    if generate:
                        measured |= self._generated(module, trainer, f"ema {decay:g}")
                suffix = "" if decay == self.ema.decays[0] else f"_ema{decay:g}"
                metrics |= {f"{key}{suffix}": value for key, value in measured.items()}
                metrics[f"train/initial_share_ema{decay:g}"] = self._initial_share(decay, trainer.global_step, generate)
            log_metrics(trainer, metrics)

    def _generation_is_missing(self, trainer: Trainer) -> bool:
        return due(trainer, self.settings.every_steps) and metric_is_missing(trainer, self.measure.key)

    def _held_out_is_missing(self, trainer: Trainer) -> bool:
        return due(trainer, self.settings.held_out_every_steps) and metric_is_missing(trainer, "val/v_mse")

    def _generated(self, module: JiTModule, trainer: Trainer, what: str) -> dict[str, float]:
        measurement = self.measure.start(module.device)
        numbers = torch.arange(trainer.global_rank, self.settings.images, trainer.world_size)
        done = 0
        for part in numbers.split(self.settings.batch_size):
            # Balanced: image i is of class i modulo the number of classes.
            labels = part % self.settings.num_classes
            measurement.add(module.generate(part.tolist(), labels), labels)
            done += len(part) * trainer.world_size
            self.progress(f"evaluating {what}", min(done, self.settings.images), self.settings.images)
        return measurement.compute()

    def _held_out_errors(self, module: JiTModule) -> dict[str, float]:
        images, labels = (tensor.to(module.device) for tensor in self.held_out)
        metrics: dict[str, float] = {}
        totals: dict[str, float] = {}
        for bin_number in range(T_BINS):
            # Fixed noise, and times spread evenly over the bin: the same for every arm and step.
            t = (bin_number + (torch.arange(len(images), device=module.device) + 0.5) / len(images)) / T_BINS
            first = bin_number * len(images)
            eps = image_noise(0, range(first, first + len(images)), module.signal.shape).to(module.device)
            for space, error in self._errors(module, images, labels, eps, t).items():
                metrics[f"val/{space}_mse_t{(bin_number + 0.5) / T_BINS:.1f}"] = error
                totals[f"val/{space}_mse"] = totals.get(f"val/{space}_mse", 0.0) + error / T_BINS
        return {**totals, **metrics}

    def _errors(self, module: JiTModule, images: Tensor, labels: Tensor, eps: Tensor, t: Tensor) -> dict[str, float]:
        parts = [
            module.errors_at(*part)
            for part in zip(
                *(tensor.split(self.settings.batch_size) for tensor in (images, labels, eps, t)), strict=True
            )
        ]
        return {space: float(torch.cat([part[space] for part in parts]).mean()) for space in parts[0]}

    def _initial_share(self, decay: float, step: int, warn: bool) -> float:
        share = Averages.initial_share(decay, step)
        if warn and share > WARN_INITIAL_SHARE:
            self.warn(
                f"step {step}: the average with decay {decay:g} still holds {share:.0%} of the initial weights, "
                "so its figures say little; train longer or lower train.ema_decays"
            )
        return share
