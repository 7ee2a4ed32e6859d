"""What the terminal shows of a run: a live bar with rate and time left, or plain lines where output is a file."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from jitlab.callbacks.throughput import Throughput

LINES_PER_RUN = 5


class TerminalProgress(Callback):
    """Shows step, loss, images per second and time left; evaluations report through `report`."""

    def __init__(self, console: Console, name: str, every_steps: int, throughput: Throughput) -> None:
        self.console = console
        self.name = name
        self.every_steps = every_steps
        self.throughput = throughput
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._started = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar from the step that is resumed from."""
        self._bar.start()
        self._training = self._bar.add_task(self.name, total=trainer.max_steps, completed=trainer.global_step, facts="")
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *args: Any,
    ) -> None:
        """Move the bar; read the loss off the device only now and then."""
        assert self._training is not None
        step = trainer.global_step
        self._bar.update(self._training, completed=step)
        if step % self.every_steps == 0 or step == trainer.max_steps:
            facts = self._facts(outputs["loss"])
            self._bar.update(self._training, facts=facts)
            if not self.console.is_terminal and self._line_is_due(step, trainer.max_steps):
                self.console.print(f"{self.name}  step {step}/{trainer.max_steps}  {facts}  {self._left(trainer)}")

    def report(self, what: str, done: int, total: int) -> None:
        """Show how far an evaluation is; at `done == total` its bar goes away."""
        if self._evaluation is None:
            self._evaluation = self._bar.add_task(f"{self.name}  {what}", total=total, facts="images")
        self._bar.update(self._evaluation, completed=done)
        if done >= total:
            self._bar.remove_task(self._evaluation)
            self._evaluation = None

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self.console.print(f"[yellow]warning[/yellow] {self.name}: {escape(text)}", highlight=False, soft_wrap=True)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        self._bar.stop()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _facts(self, loss: Tensor) -> str:
        rate = self.throughput.images_per_second
        return f"loss {float(loss):.4g}" + (f"  {rate:,.0f} images/s" if rate else "")

    def _line_is_due(self, step: int, steps: int) -> bool:
        share = max(1, steps // LINES_PER_RUN)
        return step // share > (step - self.every_steps) // share or step == steps

    def _left(self, trainer: Trainer) -> str:
        done = trainer.global_step - self._first_step
        seconds = (time.monotonic() - self._started) / max(done, 1) * (trainer.max_steps - trainer.global_step)
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"
