"""What an evaluation asks of a kind of data: to measure generated samples, batch by batch."""

from typing import Protocol

import torch
from torch import Tensor


class Measurement(Protocol):
    """Collects generated samples and says what they are worth."""

    def add(self, samples: Tensor, labels: Tensor) -> None:
        """Add this process's batch of samples (B, ...) that were generated for labels (B,)."""

    def compute(self) -> dict[str, float]:
        """Return the metrics, by their keys, of the samples of all processes."""


class Measure(Protocol):
    """Knows the true samples; `key` names a metric that every measurement gives."""

    key: str

    def start(self, device: torch.device) -> Measurement:
        """Begin a measurement of samples that lie on `device`."""
