"""What is summed over batches, processes and restarts: a torchmetrics `Metric` whose state can be saved."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class Accumulation(Metric):
    """A metric whose states are tensors; a process that was given nothing, or only a saved state, computes too."""

    full_state_update = False

    @property
    def update_called(self) -> bool:
        """Say that there is something to compute: torchmetrics warns of a process without an update."""
        return True

    def state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of what this process has accumulated; `load` goes on from them to the bit."""
        return {name: getattr(self, name).detach().to("cpu", copy=True) for name in self._defaults}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved state instead of this one; raises ValueError for one of another kind of metric."""
        expected, given = _kinds(self.state()), _kinds(state)
        if given != expected:
            raise ValueError(f"{type(self).__name__}: the state is of {given}, expected {expected}")
        self.reset()
        for name, value in state.items():
            setattr(self, name, value.to(self.device, copy=True))


class Total(Accumulation):
    """Accumulates vectors of so many numbers, in float64: their sum and how many they are."""

    n: Tensor
    total: Tensor

    def __init__(self, size: int, sync_on_compute: bool = True) -> None:
        """Start empty; without `sync_on_compute` each process keeps to what it saw itself."""
        super().__init__(sync_on_compute=sync_on_compute)
        self.set_dtype(torch.float64)
        self.add_state("n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, vectors: Tensor) -> None:
        """Add vectors (B, size)."""
        self.n += len(vectors)
        self.total += vectors.double().sum(0)

    def compute(self) -> Tensor:
        """Return the mean (size,), NaN of nothing."""
        return self.total / self.n


def _kinds(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{value.dtype} {tuple(value.shape)}" for name, value in state.items()}
