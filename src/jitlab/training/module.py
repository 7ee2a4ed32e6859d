"""The LightningModule: Algorithm 1 around a network, an objective and a sampler."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from jitlab.diffusion.guidance import acts, guided_velocity
from jitlab.diffusion.objective import Objective, Position
from jitlab.diffusion.path import Space, interpolate
from jitlab.diffusion.samplers import SOLVERS, Churn
from jitlab.diffusion.shared_start import SharedStart
from jitlab.diffusion.time_grid import time_grid
from jitlab.errors import RunError
from jitlab.randomness import image_noise, sde_noise, seed_of
from jitlab.training.optim import NonFiniteGuard, OptimizerSettings, build_adamw, build_schedule
from jitlab.training.signal import Signal


@dataclass(frozen=True)
class SamplerSettings:
    """How samples are generated: solver, time grid, and guidance within an interval of t.

    `churn` is the strength of an SDE solver's noise. `times` is the grid in full; where it is empty, the grid has
    `steps` steps and is shifted by `shift`.
    """

    solver: str
    churn: float
    steps: int
    shift: float
    times: tuple[float, ...]
    guidance_scale: float
    guidance_interval: tuple[float, float]


class JiTModule(LightningModule):
    """Trains a network to predict x, eps or v, and generates samples with it."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        sampler: SamplerSettings,
        optimizer: OptimizerSettings,
        signal: Signal,
        batch_size: int,
        parts: int,
        seed: int,
    ) -> None:
        """Wrap a network.

        Args:
            network: (z, t, y) -> output like z.
            objective: what the output means, and its loss.
            sampler: how to generate.
            optimizer: how to optimise.
            signal: the shape of a sample, and the way from and to how it is stored.
            batch_size: samples of an optimizer step, over all processes.
            parts: equal parts in which a process takes its samples of a step, one after another.
            seed: of noise, t, dropped labels and generated samples.
        """
        super().__init__()
        self.network = network
        self.objective = objective
        self.sampler = sampler
        self.optimizer_settings = optimizer
        self.signal = signal
        self.batch_size = batch_size
        self.parts = parts
        self.seed = seed
        self.dropout = any(getattr(layer, "dropout", 0.0) > 0 for layer in network.modules())
        self.guard = NonFiniteGuard()
        self.gradient_norm = torch.zeros(())

    def training_step(self, batch: tuple[Tensor, Tensor, list[str]], batch_idx: int) -> dict[str, Tensor]:
        """Take an optimizer step's stored samples (B, ...) and labels (B,), part by part; the keys are not looked at.

        What is returned is the mean over the parts. A step is one batch to Lightning whatever the number of parts, so
        that all that counts, logs, saves or resumes knows of steps alone.
        """
        samples, labels, _ = batch
        self.network.zero_grad()
        first = self.trainer.global_rank * len(samples)
        size = len(samples) // self.parts
        means: dict[str, Tensor] = {}
        for start in range(0, len(samples), size):
            position = Position(self.global_step, range(first + start, first + start + size), self.batch_size)
            losses = self.losses(samples[start : start + size], labels[start : start + size], position)
            share = {key: value / self.parts for key, value in losses.items()}
            if start + size < len(samples):
                share["loss"] = self._accumulate(share["loss"])
            means = {key: means.get(key, 0) + value for key, value in share.items()}
        return means

    def losses(self, samples: Tensor, labels: Tensor, position: Position) -> dict[str, Tensor]:
        """Return Algorithm 1's loss on stored samples (B, ...) with labels (B,), and what it is reported with."""
        x = self.signal.to_signal(samples)
        t, eps, y = self.objective.draw(x, labels, self.seed, position)
        z = interpolate(x, eps, t)
        output, class_loss = self._predict(z, t, y, labels, position)
        errors = self.objective.errors(output, x, eps, z, t)
        loss = self.objective.loss(errors) + sum(class_loss.values())
        # Where it is not finite its gradient is neither: gradients are shared by all processes, and so is the guard's
        # verdict on them.
        loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
        means = {f"{space}_mse": error.detach().mean() for space, error in errors.items()}
        return {"loss": loss, **means, **{key: value.detach() for key, value in class_loss.items()}}

    def optimizer_zero_grad(self, *args: Any) -> None:
        """Keep the gradient of the parts so far: Lightning asks before the last part's backward."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its warm-up, which advances with every step."""
        optimizer = build_adamw(self.network, self.optimizer_settings)
        schedule = build_schedule(optimizer, self.optimizer_settings.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep a non-finite loss or gradient from the weights."""
        adamw: Any = getattr(optimizer, "optimizer", optimizer)
        self.gradient_norm = self.guard.protect(adamw, self.network.parameters(), self.global_step + 1)

    def refuse_non_finite(self) -> None:
        """Raise RunError naming the step where loss or gradient stopped being finite; waits for the device."""
        step = self.guard.first_bad_step()
        if step is not None:
            raise RunError(
                f"non-finite loss or gradient at step {step}; the weights are those before it. "
                "Lower train.learning_rate or raise train.warmup_steps"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to save past a non-finite loss, so that the last good checkpoint stays."""
        self.refuse_non_finite()

    @torch.no_grad()
    def errors_at(self, samples: Tensor, labels: Tensor, eps: Tensor, t: Tensor) -> dict[Space, Tensor]:
        """Return each sample's error in x, eps and v space, (B,) each, for given unit noise and t (B,)."""
        x, eps = self.signal.to_signal(samples), eps * self.objective.noise_scale
        z = interpolate(x, eps, t)
        with self._looking():
            output = self.network(z, t, labels)
        return self.objective.errors(output.float(), x, eps, z, t)

    @torch.no_grad()
    def generate(
        self,
        indices: Sequence[int],
        labels: Tensor,
        watch: Callable[[Tensor, float, Tensor], None] | None = None,
        guidance_scale: float | None = None,
        start: SharedStart | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Generate the samples with these numbers and labels, (B, ...) as the data set stores them.

        Sample i is the same whatever the batch or process that it is generated in.

        Args:
            indices: numbers of the samples, which decide their noise.
            labels: (B,).
            watch: is shown every z and t that the solver asks at and the x that is predicted there, guidance included;
                a `Trajectory` keeps some.
            guidance_scale: in place of the sampler's.
            start: what the same samples have in common at other scales.
            seed: of the noise, in place of the module's.
        """
        seed = self.seed if seed is None else seed
        scale = self.sampler.guidance_scale if guidance_scale is None else guidance_scale

        def scaled(noise: Tensor) -> Tensor:
            return noise.to(self.device) * self.objective.noise_scale

        noise = scaled(image_noise(seed, indices, self.signal.shape))
        churn = Churn(self.sampler.churn, lambda step: scaled(sde_noise(seed, indices, step, self.signal.shape)))
        times = time_grid(self.sampler.steps, self.sampler.shift, self.sampler.times)
        velocity = guided_velocity(
            self.network,
            lambda output, z, t: self.objective.velocity(output.float(), z, t),
            labels.to(self.device),
            self.objective.null_label,
            scale,
            self.sampler.guidance_interval,
        )
        if start is not None:
            velocity = start.of(velocity)

        def watched(z: Tensor, t: float) -> Tensor:
            v = velocity(z, t)
            if watch is not None:
                watch(z, t, self.objective.clean(v, z, torch.full((len(z),), t, dtype=z.dtype, device=z.device)))
            return v

        with self._looking():
            x = SOLVERS[self.sampler.solver](watched, noise, times, churn)
        if not torch.isfinite(x).all():
            when = "" if self._trainer is None else f" at step {self.global_step}"
            raise RunError(
                f"sampling with guidance scale {scale:g} gave non-finite values{when}; try more sampler.steps"
            )
        return self.signal.from_signal(x)

    def generate_at_scales(
        self, indices: Sequence[int], labels: Tensor, scales: Sequence[float], seed: int | None = None
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield each guidance scale with what `generate` returns at it; the way to where guidance acts is gone once."""
        # Remembering costs memory: not for one scale.
        shared = SharedStart(partial(acts, scale=math.inf, interval=self.sampler.guidance_interval))
        start = shared if len(scales) > 1 else None
        for scale in scales:
            yield scale, self.generate(indices, labels, guidance_scale=scale, start=start, seed=seed)

    def _predict(
        self, z: Tensor, t: Tensor, y: Tensor, labels: Tensor, position: Position
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.dropout:
            # Masks that a resumed run draws again: the only random numbers that layers draw themselves, for a part at
            # once. So with dropout, and only then, they are others on another number of devices or parts.
            torch.manual_seed(seed_of("dropout", self.seed, position.step, position.samples[0]))
        if not self.objective.class_loss_weight:
            return self.network(z, t, y).float(), {}
        output, logits = self.network(z, t, y, with_logits=True)
        return output.float(), {"class_loss": self.objective.class_loss(logits.float(), labels, z[0].numel())}

    def _accumulate(self, loss: Tensor) -> Tensor:
        # Of all parts but the last, whose backward is Lightning's. On several devices this is within DDP's forward,
        # where it reduces nothing yet: it does so once a step, in the last part's backward.
        with torch.autocast(self.device.type, enabled=False):
            loss.backward()
        return loss.detach()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Use the network in the run's precision and without dropout for a block."""
        training = self.network.training
        self.network.eval()
        try:
            # Without a Trainer, whoever generates has chosen the precision around the call.
            with nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context():
                yield
        finally:
            self.network.train(training)
