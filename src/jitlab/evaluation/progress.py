"""What the terminal shows of images that are generated: how many, how fast, how long still."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60.0


class ImageProgress:
    """A live bar; a line a minute where output is a file. Images that an earlier start made do not count as speed."""

    def __init__(self, console: Console, what: str, total: int, processes: int = 1) -> None:
        """Prepare for so many images, of which this process makes one in `processes`."""
        self.what = what
        self.total = total
        self.processes = processes
        self.console = console
        self.done = 0
        self._made = 0
        self._started = self._told = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        self._bar = Progress(
            *columns,
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=total, rate="images")

    def __enter__(self) -> "ImageProgress":
        self._started = self._told = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        # Quietly where everything was there.
        if kind is None and self._made:
            self._print(f"{self.what}: {self.total:,} images, {self._rate():,.1f} images/s")

    def found(self, images: int) -> None:
        """Count images that were there."""
        self._advance(images)

    def made(self, images: int) -> None:
        """Count images that were made."""
        self._made += images * self.processes
        self._advance(images)
        if time.monotonic() - self._told > LINE_SECONDS and not self.console.is_terminal:
            self._told = time.monotonic()
            left = (self.total - self.done) / self._rate() / 60
            self._print(
                f"{self.what}: {self.done:,} of {self.total:,} images, {self._rate():,.1f}/s, {left:.0f} min left"
            )

    def _advance(self, images: int) -> None:
        self.done = min(self.done + images * self.processes, self.total)
        self._bar.update(self._task, completed=self.done, rate=f"{self._rate():,.1f} images/s")

    def _rate(self) -> float:
        return self._made / max(time.monotonic() - self._started, 1e-9)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)
