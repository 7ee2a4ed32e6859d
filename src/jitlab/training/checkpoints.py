"""Checkpoint files: whole or not there, and read without running code from them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from jitlab.errors import UserError
from jitlab.files import replacing

CONFIG_KEY = "config"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves beside the old checkpoint, syncs to disk and renames, so that a crash leaves one that loads."""

    def __init__(self, remedy: str = "--fresh starts the run over") -> None:
        """Take what to do about a damaged checkpoint; a run that meets one can only start over."""
        super().__init__()
        self.remedy = remedy

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`, replacing what is there only when all of it is on disk."""
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint; raises UserError where it is missing, damaged or holds more than tensors and numbers."""
        with _told(path, self.remedy):
            return super().load_checkpoint(path, map_location, weights_only)


def mapped_checkpoint(path: Path) -> dict[str, Any]:
    """Open a checkpoint without reading its tensors into memory; raises UserError where it cannot be opened."""
    with _told(path, "name a checkpoint that jitlab wrote"):
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return content


@contextmanager
def _told(path: _PATH, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: checkpoint cannot be read ({error.strerror or error}); mend that first") from error
    except MemoryError:
        raise
    except Exception as error:
        # Torch's unpickler meets damaged files with almost any exception.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: checkpoint is damaged ({reason}); {remedy}") from error
