"""Pictures per second for a folder of photos: one process, the same in batches, and Ray's workers.

`python -m benchmarks.speed.archive [--pictures 64] [--side 600] [--workers 1 2] [--batch 8] [-- --model FOLDER
...]`: each is the command in a process of its own on the same photos. "steady" excludes the time before the first
quarter of the reports (imports, the model, Ray's start), which is negligible for a large archive; "in all" includes
it. Processor seconds, which other work on the machine affects less, cover only the command's own process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import Table

ROOT = Path(__file__).resolve().parents[2]


def photos(folder: Path, count: int, side: int) -> None:
    """JPEG photos with a long side of `side` px: views of the example photo, in three aspects."""
    rng = np.random.default_rng(0)
    source = Image.open(ROOT / "samples" / "photo.jpg").convert("L")
    for k in range(count):
        width, height = ((3, 2), (2, 3), (1, 1))[k % 3]
        scale = source.height * rng.uniform(0.6, 1) / 3
        left, top = rng.uniform(0, source.width - scale * width), rng.uniform(0, source.height - scale * height)
        size = [round(side * n / max(width, height)) for n in (width, height)]
        view = source.resize(size, box=(left, top, left + scale * width, top + scale * height))
        view.save(folder / f"{k:05}.jpg", quality=92)


def processor_seconds(pid: int) -> float:
    """Processor time that a process and its threads have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(photos: Path, results: Path, count: int, options: list[str]) -> tuple[float, float, float]:
    """(steady, in all) pictures a second of one run of the command, and processor seconds a picture."""
    command = [sys.executable, "-m", "seada_core.colorize", str(photos), "-o", str(results), "--json", *options]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        arrivals, processor = [], []
        for line in process.stdout:
            assert json.loads(line)["error"] is None, line
            arrivals.append(time.perf_counter())
            processor.append(processor_seconds(process.pid))
    assert len(arrivals) == count, f"{command} did {len(arrivals)} of {count}"
    # reports come in chunks: the steady rate starts with the last of a quarter
    first = count // 4
    steady = (count - first) / (arrivals[-1] - arrivals[first - 1])
    used = (processor[-1] - processor[first - 1]) / (count - first)
    return steady, count / (time.perf_counter() - started), used


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--side", type=int, default=600, help="long side of the photos, px")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of Ray")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("options", nargs="*", help="after --: options for every run")
    options = parser.parse_args(arguments)
    runs = {"plain": [], f"plain, --batch {options.batch}": ["--batch", str(options.batch)]}
    for count in options.workers:
        ray = ["--engine", "ray", "--workers", str(count)]
        runs[f"ray, {count} workers"] = ray
        runs[f"ray, {count} workers, --batch {options.batch}"] = [*ray, "--batch", str(options.batch)]
    about = f"{options.pictures} photos of {options.side} px, {' '.join(options.options) or 'the embedded model'}"
    table = Table("archive", about, ["pictures a second, steady", "of plain's", "in all", "s of CPU a picture"])
    base = None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        photos(source, options.pictures, options.side)
        for number, (name, extra) in enumerate(runs.items()):
            results = Path(folder) / f"out-{number}"
            steady, whole, used = run(source, results, options.pictures, [*extra, *options.options])
            base = base or steady
            table.add(name, steady, steady / base, whole, None if "ray" in name else used)
    return 0


if __name__ == "__main__":
    sys.exit(main())
