"""How samples come out of the noise: the state and the predicted x at chosen times."""

import torch
from torch import Tensor

from jitlab.training.signal import Signal

TRAJECTORY_TIMES = (0.0, 0.2, 0.4, 0.6, 0.8)
# Of a time grid, which may stop a hair before a chosen time.
ROUNDING = 1e-6


class Trajectory:
    """Looks on while samples are generated; keeps z_t and the predicted x at the first t from each chosen one on.

    A solver may ask twice at the same t; the later answer is the one that it goes on from. A grid that is coarser than
    the chosen times leaves some of them out.
    """

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._kept: dict[float, tuple[float, Tensor, Tensor]] = {}

    def __call__(self, z: Tensor, t: float, x: Tensor) -> None:
        """Take in z (B, ...) at t in [0, 1] and the x that is predicted there, guidance included."""
        chosen = max(time for time in TRAJECTORY_TIMES if time <= t + ROUNDING)
        if chosen in self._kept and self._kept[chosen][0] != t:
            return
        self._kept[chosen] = t, self._signal.from_signal(z).cpu(), self._signal.from_signal(x).cpu()

    @property
    def times(self) -> list[float]:
        """Return the times that were kept, in order, and 1, where the sample is."""
        return [self._kept[chosen][0] for chosen in sorted(self._kept)] + [1.0]

    def rows(self, final: Tensor) -> Tensor:
        """Return (B, 2, T, ...): each sample's z_t, then its predicted x, over `times`.

        `final` (B, ...) are the finished samples, which stand at t = 1 in both rows.
        """
        kept = [self._kept[chosen] for chosen in sorted(self._kept)]
        noisy = torch.stack([z for _, z, _ in kept] + [final], dim=1)
        predicted = torch.stack([x for _, _, x in kept] + [final], dim=1)
        return torch.stack([noisy, predicted], dim=1)
