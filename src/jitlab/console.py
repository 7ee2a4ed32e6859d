"""The terminal that verbs write to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_WIDTH = 110


def console() -> Console:
    """Return a console; output that goes to a file gets a fixed width, so that tables are not squeezed."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=PLAIN_WIDTH)


@contextmanager
def shard_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar in a terminal while shards are read; yield what is told how many of how many were."""
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"))
    with Progress(
        *columns, TimeRemainingColumn(), console=terminal, transient=True, disable=not terminal.is_terminal
    ) as bar:
        task = bar.add_task(f"{what} shards", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
