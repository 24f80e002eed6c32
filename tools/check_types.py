"""Checks the types of `seada_core` and `nodes`: `python tools/check_types.py [mypy's options]`.

ComfyUI imports the repository as a package, so `nodes` imports `from ..seada_core`. mypy needs that package too,
independent of the checkout's name: a link gives it a fixed name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK = "seada_pack"  # as in pyproject.toml


def main(options: list[str]) -> int:
    command = [sys.executable, "-m", "mypy", f"--config-file={ROOT / 'pyproject.toml'}"]
    command += [f"--cache-dir={ROOT / '.mypy_cache'}", "-p", f"{PACK}.seada_core", "-p", f"{PACK}.nodes", *options]
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT, Path(folder) / PACK)
        result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    print(result.stdout.replace(f"{PACK}/", ""), end="")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
