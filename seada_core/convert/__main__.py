"""Weights of other makes in, weights for others out: `python -m seada_core.convert SOURCE [OUT]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..command_line import exit_status
from .arguments import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 failed, 2 bad usage, 130 interrupted."""

    def command() -> int:
        options = parse(argv)
        from .conversion import run  # torch: `--help` need not wait for it

        return run(options)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
