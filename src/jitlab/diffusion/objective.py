"""What a training step draws, and the error that it minimises (Algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jitlab.diffusion.path import SPACES, Clip, Preconditioner, Space, convert, per_sample, precondition
from jitlab.randomness import torch_generator


@dataclass(frozen=True)
class Position:
    """Which samples of which optimizer step a process holds.

    `samples` are their places in the global batch of `batch_size` images, so that a sample's noise does
    not depend on the number of processes.
    """

    step: int
    samples: Sequence[int]
    batch_size: int


@dataclass(frozen=True)
class Objective:
    """Prediction, loss space and the distributions of t, eps and dropped labels (Table 9)."""

    prediction: Space | Preconditioner
    loss_space: Space
    time_mu: float
    time_sigma: float
    noise_scale: float
    clip: Clip
    sampling_clip: Clip
    label_drop: float
    null_label: int
    class_loss_weight: float = 0.0

    def draw(self, x: Tensor, y: Tensor, seed: int, position: Position) -> tuple[Tensor, Tensor, Tensor]:
        """Draw t, eps and the labels with some of them dropped, from (seed, position) alone.

        Returns:
            t (B,) logit-normal; eps like x, N(0, noise_scale²); y (B,) with `null_label` where dropped.
        """
        cpu = torch_generator(torch.device("cpu"), "t", seed, position.step)
        samples = list(position.samples)
        # Drawn for the whole global batch on the CPU: the same t on every device and in every process.
        logit = torch.randn(position.batch_size, generator=cpu) * self.time_sigma + self.time_mu
        t = torch.sigmoid(logit)[samples].to(x.device, x.dtype, non_blocking=True)
        dropped = (torch.rand(position.batch_size, generator=cpu) < self.label_drop)[samples]
        eps = torch.empty_like(x, memory_format=torch.contiguous_format)
        for row, sample in zip(eps, samples, strict=True):
            row.normal_(generator=torch_generator(x.device, "eps", seed, position.step, sample))
        y = torch.where(dropped.to(y.device, non_blocking=True), self.null_label, y)
        return t, eps * self.noise_scale, y

    def errors(self, output: Tensor, x: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> dict[Space, Tensor]:
        """Return each sample's mean squared error in x, eps and v space, (B,) each.

        The target takes the route of the prediction, clips included. So an exact network has no error
        anywhere, and x-prediction's v-error is |output - x|² / max(1 - t, clip)², as in the official
        implementation.
        """
        predicted, source = self._read(output, z, t)
        target = {"x": x, "eps": eps, "v": x - eps}[source]
        errors = {}
        for space in SPACES:
            pair = [convert(value, z, t, source, space, self.clip) for value in (predicted, target)]
            errors[space] = (pair[0] - pair[1]).square().flatten(1).mean(1)
        return errors

    def loss(self, errors: dict[Space, Tensor]) -> Tensor:
        """Return the loss that is minimised: the mean error in the loss space, a scalar."""
        return errors[self.loss_space].mean()

    def velocity(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the velocity that the network's output implies when sampling, like z.

        Inside the clips that is t / clip (eps-prediction, near noise) or (1 - t) / clip (x-prediction, near data) of
        Table 1's. So at t = 0, where z - eps of an exact network is 0, eps-prediction stands still.
        """
        predicted, source = self._read(output, z, t)
        return convert(predicted, z, t, source, "v", self.sampling_clip)

    def clean(self, velocity: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the clean data that the network predicted where it implied this velocity when sampling, like z.

        Takes back the clip that made the velocity, so it is Table 1's conversion of the prediction at every t; all is
        affine in the prediction, so a guided velocity gives the guided clean data.
        """
        clip, t_of = self.sampling_clip, per_sample(t, z)
        match self.prediction:
            case "v":
                return convert(velocity, z, t, "v", "x", clip)
            case "eps":
                eps = z - t_of.clamp(min=clip.t) * velocity
                return convert(eps, z, t, "eps", "x", clip)
            case _:
                return z + (1 - t_of).clamp(min=clip.one_minus_t) * velocity

    def class_loss(self, logits: Tensor, y: Tensor, elements: int) -> Tensor:
        """Return the cross-entropy's share of the loss (Table 11), a scalar.

        Args:
            logits: (B, classes).
            y: undropped labels, (B,).
            elements: of one x. The paper weighs cross-entropy against the error's sum over them, the loss is its mean.
        """
        return self.class_loss_weight / elements * F.cross_entropy(logits, y)

    def _read(self, output: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Space]:
        if self.prediction == "edm" or self.prediction == "linear":
            return precondition(output, z, t, self.prediction, self.noise_scale), "x"
        return output, self.prediction
