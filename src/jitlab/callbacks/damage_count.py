"""How many damaged samples were replaced, in the log and on the terminal."""

from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer

from jitlab.callbacks.run_log import log_metrics
from jitlab.callbacks.schedule import due


class DamageCount(Callback):
    """Logs `data/damaged` every so many steps, and tells when there are more."""

    def __init__(self, every_steps: int, count: Callable[[], int], tell: Callable[[str], None]) -> None:
        """Prepare; `count` returns the damaged samples that the run has met, `tell` shows a line."""
        self.every_steps = every_steps
        self.count = count
        self.tell = tell
        self._told = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Log where a point is due."""
        if not due(trainer, self.every_steps) or not trainer.is_global_zero:
            return
        count = self.count()
        log_metrics(trainer, {"data/damaged": float(count)})
        if count > self._told:
            self.tell(f"step {trainer.global_step}: {count} damaged samples were replaced by others so far")
            self._told = count
