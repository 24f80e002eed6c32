"""The first command that a user runs, as a process of its own: seconds and peak memory for photos of three sizes.

`python -m benchmarks.speed.first_command [--repeats 5] [--sizes "600 px" ...]`; also `--help`, and a warm picture
through the `Colorizer`. Processor seconds are those that other work on the machine affects less.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import Table

SIZES = {"600 px": (600, 400), "12 megapixels": (4000, 3000), "50 megapixels": (8660, 5774)}


def photo(path: Path, width: int, height: int) -> None:
    """A smooth random grey photo with some grain."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(40, 215, (30, 40), np.uint8))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    large += rng.integers(-6, 7, (height, width), np.int16)
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(path, quality=90)


class Cost(NamedTuple):
    """What a process took: seconds, processor seconds, peak memory in MiB."""

    wall: float
    processor: float
    peak: float


def cost(command: list[str]) -> Cost:
    """The cost of a process of its own."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here, not by the object
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=[*SIZES])
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "seada_core.colorize"]
    about = f"a process of its own, medians of {options.repeats}; files in the disk cache"
    table = Table("first_command", about, ["s", "processor s", "best s", "peak MiB"])
    wall, processor, _ = zip(*(cost([*command, "--help"]) for _ in range(options.repeats)))
    table.add("--help", median(wall), median(processor), min(wall), None)  # its peak is that of this process
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "photo.jpg", Path(folder) / "out.jpg"
            photo(source, *SIZES[name])
            run = [*command, str(source), "-o", str(target), "--model", options.model, "--overwrite"]
            wall, processor, peak = zip(*(cost(run) for _ in range(options.repeats)))
        table.add(name, median(wall), median(processor), min(wall), max(peak))

    import torch

    from seada_core.pipeline import Colorizer

    colorizer = Colorizer.from_pretrained(options.model)
    gray = torch.rand(1, 1, 512, 512)
    warm = []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        colorizer(gray, steps=20, guidance=2.0)
        warm.append(time.perf_counter() - started)
    table.add("warm, 512 px, 20 steps with guidance", median(warm[1:]), None, min(warm[1:]), None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
