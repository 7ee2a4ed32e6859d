"""AdamW with warm-up, which a non-finite gradient cannot reach."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimizerSettings:
    """Rates and momenta (Table 9); `warmup_steps` counts optimizer steps."""

    learning_rate: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable matrices, then biases and norms: AdamW's groups, in its order."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    return [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]


def build_adamw(network: nn.Module, settings: OptimizerSettings) -> AdamW:
    """Return AdamW that decays matrices only: neither biases nor norms, as the official implementation does."""
    matrices, others = split_parameters(network)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def build_schedule(optimizer: AdamW, warmup_steps: int) -> LambdaLR:
    """Return a linear warm-up from 1 / warmup_steps of the rate, constant after it."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


class NonFiniteGuard:
    """Holds the weights from the first step on whose gradient is not finite, without a device sync.

    The verdict stays on the device; whoever can afford to wait for it asks `first_bad_step`.
    """

    def __init__(self) -> None:
        self._bad_step: Tensor | None = None

    def protect(self, optimizer: AdamW, parameters: Iterable[Tensor], step: int) -> Tensor:
        """Tell the optimizer whether to skip its next step; return the norm of all gradients.

        Gradients are averaged over the processes before, so that all of them come to the same verdict.
        """
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._bad_step is None:
            self._bad_step = torch.full((), -1, device=norm.device)
        bad = ~torch.isfinite(norm)
        self._bad_step = torch.where((self._bad_step < 0) & bad, step, self._bad_step)
        # The hook that fused optimizers have for gradient scalers: where it is 1 they leave weights and moments alone.
        optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]
        return norm

    def first_bad_step(self) -> int | None:
        """Return the first step whose gradient was not finite, or None; waits for the device."""
        step = -1 if self._bad_step is None else int(self._bad_step)
        return None if step < 0 else step
