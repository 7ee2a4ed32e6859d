"""What options take: text is read, and refused in words that say what was expected."""

import argparse
from pathlib import Path

EXIT_INTERRUPTED = 130


def at_least_one(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of 1 or more")
    return int(text)


def whole_number(text: str) -> int:
    """Read a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of 0 or more")
    return int(text)


def path(text: str) -> Path:
    """Read a path."""
    # Of an empty word, such as a shell makes of "$UNSET", Path would make the working directory.
    if not text:
        raise argparse.ArgumentTypeError("expected a path, not an empty word")
    return Path(text)


def number_or_path(text: str) -> int | Path:
    """Read a whole number of 1 or more, or a path."""
    return at_least_one(text) if text.isdecimal() else path(text)


def whole_numbers(text: str) -> list[int]:
    """Read whole numbers, parted by commas."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"'{text}': expected whole numbers, such as 207,360")
    return [int(word) for word in words]


def two_numbers(text: str) -> tuple[float, float]:
    """Read two numbers, parted by a comma."""
    try:
        first, second = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}': expected two numbers, such as 0.9999,0.9996") from error
    return first, second


def label(text: str) -> str:
    """Read what may be part of a folder name."""
    if not text.replace("-", "").replace("_", "").isalnum():
        raise argparse.ArgumentTypeError(f"'{text}': expected letters, digits, '-' and '_'")
    return text
