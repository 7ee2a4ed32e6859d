"""Puts the run's configuration into its checkpoints, so that a checkpoint can be used on its own."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from jitlab.training.checkpoints import CONFIG_KEY


class SavedConfig(Callback):
    """Stores the resolved configuration, an opaque text here, under a key of its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the text."""
        checkpoint[CONFIG_KEY] = self.text
