"""Errors as the commands report them: in one line, and with an exit status."""

from __future__ import annotations

LONGEST = 400  # characters of `one_line`


class CommandError(Exception):
    """Ends a command. The message is the whole error line, `status` the exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


def one_line(error: BaseException | str) -> str:
    """A text, or an error's message, in one line of at most `LONGEST` characters; an empty message gives the type."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def reason(error: BaseException) -> str:
    """`one_line` of an error, for messages that name the file: an OSError's text without its number and path."""
    return one_line(getattr(error, "strerror", None) or error)
