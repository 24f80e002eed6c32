"""Fixes whitespace at the ends of files and lines: `python tools/end_of_file.py FILE...`; exits with 1 on changes."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def tidy(text: str) -> str:
    """The text without spaces at the ends of lines, and with one newline at its end."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n")
    return text + "\n" if text else ""


def main(files: list[str]) -> int:
    status = 0
    for file in map(Path, files):
        content = file.read_bytes().decode()
        if tidy(content) != content:
            file.write_bytes(tidy(content).encode())
            print(f"repaired {file}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
