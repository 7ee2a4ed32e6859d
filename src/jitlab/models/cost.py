"""What a network costs, counted without allocating it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Trainable parameters, and the floating-point operations (2 for a multiply-add) of one sample's forward pass."""

    parameters: int
    forward_flops: int

    @property
    def training_flops(self) -> int:
        """Return the operations of one sample's forward and backward pass, taking the backward for two forwards."""
        return 3 * self.forward_flops


def cost(build: Callable[[], nn.Module], sample_shape: tuple[int, ...]) -> Cost:
    """Count a network that `build` makes; it is built on the meta device, so that any size is quick."""
    with torch.device("meta"):
        network = build()
        inputs = torch.empty(1, *sample_shape), torch.empty(1), torch.empty(1, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*inputs)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Cost(parameters, counter.get_total_flops())
