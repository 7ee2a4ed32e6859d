"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in a setting, a file or the environment, told on one line with its fix.

    The command line prints it without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run that failed on its own account: told on one line, exit code 1, the other arms go on."""


def nearest(name: str, known: list[str]) -> str:
    """Return `did you mean 'X'?`, or the list of all known names where none is near."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(known)}"
