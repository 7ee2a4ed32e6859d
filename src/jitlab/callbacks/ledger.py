"""Which samples every step was trained on, written down as they were used."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from jitlab.errors import UserError

LEDGER_FILES = "ledger-*.jsonl"


class Ledger(Callback):
    """Appends {"step", "epoch", "keys"} to `ledger-RANK.jsonl`, one file for each process.

    The keys of a step, one process after another, are its global batch. A step that is trained again after a crash
    replaces what was written of it.
    """

    def __init__(self, folder: Path, epoch_at: Callable[[int], int]) -> None:
        """Write into a run's folder; `epoch_at` says in which epoch the step that follows a number of steps is."""
        self.folder = folder
        self.epoch_at = epoch_at

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the steps after the one that is resumed from, those of processes that are no more among them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(LEDGER_FILES):
            rank = _rank(path)
            if rank == trainer.global_rank or (trainer.is_global_zero and rank >= trainer.world_size):
                _cut(path, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        """Write the step's keys."""
        step = trainer.global_step
        row = {"step": step, "epoch": self.epoch_at(step - 1), "keys": list(batch[2])}
        # Opened anew: nothing of a step is left in a buffer when the process is killed.
        with (self.folder / f"ledger-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def ledger_entry(folder: Path, step: int) -> tuple[int, list[str]] | None:
    """Return the epoch and the keys of a step's global batch; None where no ledger has the step.

    Raises:
        UserError: where a ledger is damaged.
    """
    found = [row for path in sorted(folder.glob(LEDGER_FILES), key=_rank) if (row := _row(path, step))]
    return (found[0]["epoch"], [key for row in found for key in row["keys"]]) if found else None


def _row(path: Path, step: int) -> dict[str, Any] | None:
    return next((row for row, _ in _rows(path) if row["step"] == step), None)


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each row and the byte at which it ends; a last line that a kill tore is none."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                yield {"step": int(row["step"]), "epoch": int(row["epoch"]), "keys": list(row["keys"])}, end
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: damaged line at byte {end - len(line)}; remove the file") from error


def _cut(path: Path, step: int) -> None:
    kept = 0
    for row, end in _rows(path):
        if row["step"] > step:
            break
        kept = end
    with path.open("r+b") as file:
        file.truncate(kept)


def _rank(path: Path) -> int:
    return int(path.stem.partition("-")[2])
