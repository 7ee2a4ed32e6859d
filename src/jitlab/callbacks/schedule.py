"""When something that happens every so many steps is due."""

from lightning import Trainer


def due(trainer: Trainer, every_steps: int) -> bool:
    """Say whether the step just taken is a multiple of `every_steps`, or the last one."""
    return trainer.global_step % every_steps == 0 or trainer.global_step == trainer.max_steps
