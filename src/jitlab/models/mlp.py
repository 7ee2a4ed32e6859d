"""A plain ReLU MLP on points: the network of the toy experiment (Sec. 3.3)."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Maps z and t to an output like z; there are no classes to tell it."""

    def __init__(self, dimensions: int, hidden_size: int, depth: int) -> None:
        """Build `depth` linear layers, those but the last with a ReLU behind them; t is one more input."""
        super().__init__()
        widths = [dimensions + 1, *[hidden_size] * (depth - 1), dimensions]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - every network is called alike
        """Map noisy points z (B, D) and times t (B,) to an output like z; the labels y are not looked at."""
        h = torch.cat([z, t[:, None].to(z.dtype)], dim=1)
        for layer in self.layers[:-1]:
            h = layer(h).relu()
        output: Tensor = self.layers[-1](h)
        return output
