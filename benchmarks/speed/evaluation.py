"""Time and memory of an evaluation without colouring: `python -m benchmarks.speed.evaluation --photos DIR`.

Random crops of the photos are the truths, the same with half their chroma the results; once with a fifth of the
pictures, once with all, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import Table
from seada_core.evaluate.sources import gray_of, to_image, to_tensor

SIZE = 256


def make(photos: Path, count: int, folder: Path) -> None:
    """`count` truths and results as PNG, spread over the photos."""
    rng = np.random.default_rng(0)
    images = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.png"))]
    for name in ("truth", "half"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image = images[index % len(images)]
        x, y = (int(rng.integers(0, side - SIZE + 1)) for side in image.size)
        truth = image.crop((x, y, x + SIZE, y + SIZE))
        truth.save(folder / "truth" / f"{index:05}.png", compress_level=1)
        rgb = to_tensor(truth)
        to_image((rgb + gray_of(rgb)) / 2).save(folder / "half" / f"{index:05}.png", compress_level=1)


def measured(folder: Path, threads: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MiB of the command on a folder that `make` made."""
    command = [sys.executable, "-m", "seada_core.evaluate", "--images", str(folder / "truth"), "--no-model"]
    command += ["--compare", f"half={folder / 'half'}", "--out", str(folder / "report"), "--device", "cpu"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("error: the evaluation failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of PNGs of at least 256 px a side")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    about = f"pictures of {SIZE} px without colouring, {options.threads} threads"
    table = Table("evaluation", about, ["s", "s of CPU", "peak MiB"])
    for count in (options.pictures // 5, options.pictures):
        with tempfile.TemporaryDirectory() as folder:
            make(options.photos, count, Path(folder))
            wall, cpu, memory = measured(Path(folder), options.threads)
        table.add(f"{count} pictures", wall, cpu, memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
