"""What the terminal shows of a build: a bar with rate and time left, or a line now and then where output is a file."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REFRESH_SECONDS, LINE_SECONDS = 0.5, 30.0


@contextmanager
def shown(console: Console | None, name: str, total: int, before: int, count: Callable[[], int]) -> Iterator[None]:
    """Show within a block how many images are done.

    Args:
        console: where; None for nowhere.
        name: of the build.
        total: images.
        before: images that were there already.
        count: says how many have been done since.
    """
    if console is None:
        yield
        return
    over = threading.Event()
    watch = _draw if console.is_terminal else _print
    thread = threading.Thread(target=watch, args=(console, name, total, before, count, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _draw(
    console: Console, name: str, total: int, before: int, count: Callable[[], int], over: threading.Event
) -> None:
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    start = time.monotonic()
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total, completed=before, rate="")
        while not over.wait(REFRESH_SECONDS):
            done = count()
            rate = f"{done / (time.monotonic() - start):,.0f} images/s"
            bar.update(task, completed=before + done, rate=rate)


def _print(
    console: Console, name: str, total: int, before: int, count: Callable[[], int], over: threading.Event
) -> None:
    start = time.monotonic()
    while not over.wait(LINE_SECONDS):
        done = count()
        rate = done / (time.monotonic() - start)
        left = f", {(total - before - done) / rate / 60:,.0f} min left" if rate else ""
        console.print(
            f"{name}: {before + done:,} of {total:,} images, {rate:,.0f} images/s{left}", soft_wrap=True, markup=False
        )
