"""Training curves: the mean of each error over the steps since the last point."""

from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from jitlab.callbacks.run_log import log_metrics
from jitlab.callbacks.schedule import due
from jitlab.training.module import JiTModule


class TrainingLog(Callback):
    """Logs `train/*` every so many steps; sums stay on the device until then."""

    def __init__(self, every_steps: int, images_at: Callable[[int], int], images_per_epoch: int) -> None:
        self.every_steps = every_steps
        self.images_at = images_at
        self.images_per_epoch = images_per_epoch
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._strategy: Strategy | None = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *args: Any,
    ) -> None:
        """Add a step's errors; stop the run where they are not finite."""
        assert isinstance(pl_module, JiTModule)
        values = {**outputs, "grad_norm": pl_module.gradient_norm}
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0) + value.detach().double()
        self._count += 1
        log_now = due(trainer, self.every_steps)
        # On the CPU there is no queue to wait for, so every step is looked at.
        if log_now or pl_module.device.type == "cpu":
            pl_module.refuse_non_finite()
        if log_now:
            self._log(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last point, so that the next point after a resume is the same."""
        return {"sums": {key: value.cpu() for key, value in self._pooled().items()}, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums since the last point."""
        self._sums, self._count = dict(state_dict["sums"]), state_dict["count"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the network to its device."""
        self._strategy = trainer.strategy
        self._sums = {key: value.to(pl_module.device) for key, value in self._sums.items()}

    def _pooled(self) -> dict[str, Tensor]:
        """Return the sums' means over all processes."""
        if not self._sums:
            return {}
        assert self._strategy is not None
        sums = self._strategy.reduce(torch.stack(list(self._sums.values())), reduce_op="mean")
        return dict(zip(self._sums, sums, strict=True))

    def _log(self, trainer: Trainer) -> None:
        pooled = self._pooled()
        means = torch.stack(list(pooled.values())) / self._count
        metrics = {f"train/{key}": value for key, value in zip(pooled, means.tolist(), strict=True)}
        images = self.images_at(trainer.global_step)
        metrics["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics |= {"train/images": images, "train/epochs": images / self.images_per_epoch}
        log_metrics(trainer, metrics)
        self._sums, self._count = {}, 0
