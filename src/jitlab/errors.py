"""The one exception that means: the user can mend this."""

MOST_NAMES = 12


class UserError(Exception):
    """A mistake in a setting, a file or the environment, told on one line with its fix.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        """Keep the message on one line, whatever of the user's input it repeats."""
        super().__init__(_one_line(self, message))

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows instead of a traceback: IPython asks for it by this name."""
        return [f"jitlab: {self}"]


class RunError(Exception):
    """A run that failed on its own account: told on one line, exit code 1, the other arms go on."""

    def __init__(self, message: str) -> None:
        """Keep the message on one line."""
        super().__init__(_one_line(self, message))


def nearest(name: str, known: list[str]) -> str:
    """Return `did you mean 'X'?`, or the list of all known names where none is near."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return "there are none"
    shown = ", ".join(known[:MOST_NAMES])
    return f"expected one of {shown}" + (", ..." if len(known) > MOST_NAMES else "")


def _one_line(error: Exception, message: str) -> str:
    # A loader worker's error comes back with the worker's traceback around it.
    return " ".join(message.rpartition(f"{type(error).__name__}: ")[2].split())
