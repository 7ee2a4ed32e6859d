"""Keeps the moving averages of the weights beside the raw ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning import Callback, LightningModule, Trainer

from jitlab.errors import UserError
from jitlab.training.ema import Averages
from jitlab.training.module import JiTModule

CHECKPOINT_KEY = "ema"


class Ema(Callback):
    """Updates several averages after every step; they live in the checkpoint under a key of their own."""

    def __init__(self, module: JiTModule, decays: Sequence[float]) -> None:
        self.averages = Averages(module.network, decays)

    @property
    def decays(self) -> list[float]:
        """Return the decays, the one that is evaluated under the plain keys in front."""
        return self.averages.decays

    @contextmanager
    def applied(self, decay: float | None) -> Iterator[None]:
        """Put an average, or with None the raw weights, into the network for a block."""
        if decay is None:
            yield
            return
        with self.averages.applied(decay):
            yield

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the network to its device."""
        self.averages.to(pl_module.device)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the new weights in."""
        self.averages.update()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store every average by decay and parameter name."""
        checkpoint[CHECKPOINT_KEY] = self.averages.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore every average; raises UserError where the checkpoint lacks one."""
        try:
            self.averages.load_state_dict(checkpoint[CHECKPOINT_KEY])
        except KeyError as error:
            raise UserError(
                f"checkpoint lacks an average: {error.args[0]}; train.ema_decays must be those it was trained with"
            ) from error
