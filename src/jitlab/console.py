"""The terminal that verbs write to."""

from rich.console import Console

PLAIN_WIDTH = 110


def console() -> Console:
    """Return a console; output that goes to a file gets a fixed width, so that tables are not squeezed."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=PLAIN_WIDTH)
