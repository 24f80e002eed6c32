"""What the commands share: a parser with one-line errors, types of arguments, exit statuses.

Importing this is quick (no torch, no Pillow): `--help` waits for it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Collection
from typing import NoReturn, TypeVar

FINE, FAILED, USAGE = 0, 1, 2  # exit statuses
INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes no abbreviations, and whose usage errors are one line and exit status 2."""

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message} (--help lists the options)\n")


def number(
    kind: type[int] | type[float],
    low: float = -math.inf,
    high: float = math.inf,
    what: str | None = None,
    multiple: int = 1,
) -> Callable[[str], float]:
    """An argument's type: a number from `low` to `high`, and a multiple of `multiple`.

    Args:
        what: what the error says is expected, such as "a number above 0"; by default it names the limits.
    """
    expected = what or _range(kind, low, high, multiple)

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (multiple > 1 and value % multiple):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return value

    return parse


def _range(kind: type, low: float, high: float, multiple: int) -> str:
    if multiple > 1:
        noun = f"a multiple of {multiple}"
    else:
        noun = "a whole number" if kind is int else "a number"
    if low == -math.inf:
        return noun if high == math.inf else f"{noun} of at most {high}"
    return f"{noun} of at least {low}" if high == math.inf else f"{noun} from {low} to {high}"


def names(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """An argument's type: names among `choices`, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(name.strip() for name in text.split(","))
        unknown = [name for name in found if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(choices)}")
        return found

    return parse


def checked(function: Callable[[str], T]) -> Callable[[str], T]:
    """An argument's type made of a function that raises ValueError: its message becomes the usage error."""

    def parse(text: str) -> T:
        try:
            return function(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
