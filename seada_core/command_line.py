"""What the commands share: a parser with one-line errors, types of arguments, exit statuses.

It imports neither torch nor Pillow, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NoReturn, TypeVar

from .errors import CommandError

if TYPE_CHECKING:
    from .options import Limits

FINE, FAILED, USAGE = 0, 1, 2  # exit statuses
INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended
CLOSED = 141  # likewise, where the reader of its output is gone, as with `| head`

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes no abbreviations, and whose usage errors are one line and exit status 2."""

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message} (--help lists the options)\n")


def exit_status(command: Callable[[], int], interrupted: str = "") -> int:
    """Run a command. Returns its exit status: its own, a `CommandError`'s, argparse's, `INTERRUPTED` or `CLOSED`.

    Args:
        interrupted: added to the error line after Ctrl-C, such as what is done.
    """
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # nothing can be said there any more; Python would try once more as it ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except SystemExit as end:  # of argparse: help, or bad usage already reported
        return int(end.code or FINE)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("; ".join(filter(None, ("error: interrupted", interrupted))), file=sys.stderr)
        return INTERRUPTED


def number(
    kind: type[int] | type[float],
    low: float = -math.inf,
    high: float = math.inf,
    what: str | None = None,
    multiple: int = 1,
) -> Callable[[str], float]:
    """An argument's type: a number from `low` to `high`, and a multiple of `multiple`.

    Args:
        what: what the error message says is expected, such as "a number above 0"; by default the limits.
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


def within(limits: Limits) -> Callable[[str], float]:
    """An argument's type: a number within the limits of an option, see `ColorizeOptions.limits`."""
    return number(limits.kind, limits.low, limits.high, limits.text or None, limits.multiple)


def names(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """An argument's type: names among `choices`, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(name.strip() for name in text.split(","))
        unknown = [name for name in found if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(choices)}")
        return found

    return parse


def checked(function: Callable[[str], T]) -> Callable[[str], T]:
    """An argument's type from a function that raises ValueError: its message becomes the usage error."""

    def parse(text: str) -> T:
        try:
            return function(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
