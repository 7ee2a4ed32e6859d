"""When something that happens every so many steps is due, and how a resumed run makes up for it."""

from abc import abstractmethod
from typing import Any

from lightning import Callback, LightningModule, Trainer

from jitlab.training.module import JiTModule


def due(trainer: Trainer, every_steps: int) -> bool:
    """Say whether the step just taken is a multiple of `every_steps`, or the last one."""
    return trainer.global_step % every_steps == 0 or trainer.global_step == trainer.max_steps


def times_due(steps: int, every_steps: int) -> int:
    """Return how often in a run of so many steps something is due."""
    return -(-steps // every_steps)


class AfterCheckpoint(Callback):
    """Something that looks at the weights of a step after they were saved, and may take long.

    Where a kill or a stop cut it off, the run that is resumed from that checkpoint makes up for it first.
    """

    @abstractmethod
    def missing(self, trainer: Trainer) -> bool:
        """Say, in every process alike, whether something is due at this step and not in the run folder yet."""

    @abstractmethod
    def look(self, trainer: Trainer, module: JiTModule) -> None:
        """Do what is missing."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what is missing at the step that is resumed from."""
        if trainer.global_step > 0:
            self._look_if_missing(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look where it is due."""
        self._look_if_missing(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what is missing at the last step: resumed from there, nothing is trained any more."""
        self._look_if_missing(trainer, pl_module)

    def _look_if_missing(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, JiTModule)
        if self.missing(trainer):
            # At the end of a fit Lightning has moved the weights to the CPU.
            pl_module.to(trainer.strategy.root_device)
            self.look(trainer, pl_module)
