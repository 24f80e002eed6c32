"""Colour photos from the command line: `python -m seada_core.colorize IN... [-o OUT]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..command_line import exit_status
from .arguments import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 something failed, 2 bad usage, 130 interrupted."""

    def command() -> int:
        options = parse(argv)
        if options.film is not None:
            from .films import FilmRun

            return FilmRun(options)()
        from .run import Run  # Pillow: `--help` need not wait for it

        return Run(options)()

    return exit_status(command, "the pictures reported so far are done")


if __name__ == "__main__":
    sys.exit(main())
