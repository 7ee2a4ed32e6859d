"""One start for several guidance scales: what a solver asks before guidance acts is the same at all of them."""

from collections.abc import Callable

from torch import Tensor

from jitlab.diffusion.guidance import Velocity


class SharedStart:
    """Remembers a solver's velocities up to the first t at which guidance may act, and gives them again.

    The same samples can then be generated at another scale for the rest of the way alone, to the bit: until there, a
    solver that starts from the same noise asks for the same velocities in the same order.
    """

    def __init__(self, may_act: Callable[[float], bool]) -> None:
        """Prepare; `may_act` says of t whether guidance acts there at some scale."""
        self._may_act = may_act
        self._known: list[Tensor] = []

    def of(self, velocity: Velocity) -> Velocity:
        """Return a velocity for one pass of a solver that takes from `velocity` what is not known yet."""
        asked, shared = 0, True

        def remembered(z: Tensor, t: float) -> Tensor:
            nonlocal asked, shared
            shared = shared and not self._may_act(t)
            if not shared:
                return velocity(z, t)
            if asked == len(self._known):
                self._known.append(velocity(z, t))
            asked += 1
            return self._known[asked - 1]

        return remembered
