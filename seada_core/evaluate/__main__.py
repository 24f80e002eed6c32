"""Measure colourised pictures as the field does: `python -m seada_core.evaluate --images DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..command_line import exit_status
from .arguments import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 something failed, 2 bad usage, 130 interrupted."""

    def command() -> int:
        options = parse(argv)
        if options.clips is not None:
            from .clips import run
        else:
            from .run import run  # torch: `--help` need not wait for it
        return run(options)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
