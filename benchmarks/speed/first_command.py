"""The first command that a user runs, as a process of its own: seconds and peak memory for a 12-megapixel photo.

`python -m benchmarks.speed.first_command [--repeats 3]`; also `--help`, and a warm picture through the `Colorizer`.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import Table


def photo(path: Path, width: int = 4000, height: int = 3000) -> None:
    """A smooth random grey photo with some grain, 12 megapixels."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(40, 215, (30, 40), np.uint8))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    large += rng.integers(-6, 7, (height, width), np.int16)
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "seada_core.colorize"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "photo.jpg", Path(folder) / "out.jpg"
        photo(source)
        run = [*command, str(source), "-o", str(target), "--model", options.model, "--overwrite"]
        seconds = [timed(run) for _ in range(options.repeats)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    table = Table("first_command", f"seconds, best of {options.repeats}; files in the disk cache", ["s", "peak MiB"])
    table.add("a 12-megapixel photo, a process of its own", min(seconds), peak)
    table.add("--help", min(timed([*command, "--help"]) for _ in range(3)), None)

    import torch

    from seada_core.pipeline import Colorizer

    colorizer = Colorizer.from_pretrained(options.model)
    gray = torch.rand(1, 1, 512, 512)
    warm = []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        colorizer(gray, steps=20, guidance=2.0)
        warm.append(time.perf_counter() - started)
    table.add("warm, 512 px, 20 steps with guidance", min(warm[1:]), None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
