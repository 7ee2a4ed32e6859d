"""Exponential moving averages of the weights, several decays at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages:
    """Averages of a network's parameters, one set for each decay; the network keeps its raw weights."""

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        self._parameters = dict(network.named_parameters())
        self._averages = {decay: [p.detach().clone() for p in self._parameters.values()] for decay in decays}
        self._update = {decay: get_ema_multi_avg_fn(decay) for decay in decays}

    @property
    def decays(self) -> list[float]:
        """Return the decays, the one that is evaluated first in front."""
        return list(self._averages)

    def to(self, device: torch.device) -> None:
        """Move the averages to the device of the weights."""
        self._averages = {decay: [tensor.to(device) for tensor in tensors] for decay, tensors in self._averages.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in: average = decay average + (1 - decay) weight."""
        weights = list(self._parameters.values())
        for decay, averages in self._averages.items():
            self._update[decay](averages, weights, 0)

    @contextmanager
    def applied(self, decay: float) -> Iterator[None]:
        """Put one average into the network for the length of a block; the raw weights come back whatever happens."""
        self._swap(decay)
        try:
            yield
        finally:
            self._swap(decay)

    @staticmethod
    def initial_share(decay: float, steps: int) -> float:
        """Return the share, in [0, 1], that the initial weights still have in an average after `steps` updates."""
        return decay**steps

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return every average by its decay and the names of the parameters."""
        return {
            str(decay): dict(zip(self._parameters, averages, strict=True)) for decay, averages in self._averages.items()
        }

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore every average; raises KeyError where one is missing or has other parameters."""
        for decay, averages in self._averages.items():
            saved = state[str(decay)]
            if saved.keys() != self._parameters.keys():
                raise KeyError(f"average {decay}: parameters {sorted(saved.keys() ^ self._parameters.keys())}")
            for average, name in zip(averages, self._parameters, strict=True):
                average.copy_(saved[name])

    def _swap(self, decay: float) -> None:
        # Exchanging storages copies nothing, and so cannot run out of memory half way.
        averages = self._averages[decay]
        for place, parameter in enumerate(self._parameters.values()):
            parameter.data, averages[place] = averages[place], parameter.data
        # Autocast keeps the bf16 copy of a parameter by its identity, which stays: it would be that of other weights.
        torch.clear_autocast_cache()
