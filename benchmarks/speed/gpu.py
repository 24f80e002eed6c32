"""All figures of one GPU in a few minutes: the embedded model, full-sized steps and pictures, training, agreement.

`python -m benchmarks.speed.gpu [--device cuda] [--minutes 4] [--parts NAME ...] [--out FOLDER] [--tiny]`: one table,
written to `FOLDER/gpu.json` after every row, the most wanted rows first. Each part runs in a process of its own, within
a time limit, so that a failure costs no other part's rows. Full-sized models have random weights, which are made on
the device. `--device cpu --tiny --one-process` tries all of it on small models.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks import RESULTS, Table
from benchmarks.speed.on_gpu.run import COLUMNS, Part, Results, in_processes, in_this_process

MINI, BIG, TRAINING, AGREEMENT = (
    f"benchmarks.speed.on_gpu.{m}" for m in ("mini", "full_sized", "training", "agreement")
)

# What compiles takes a minute of the CPU, beside which launches are slow: it comes last and begins when nothing but
# `training-more` is left to measure.
PARTS = {
    "step": Part(BIG, "step", 40),
    "photo": Part(MINI, "photo", 60),
    "diffusers": Part(BIG, "diffusers_pictures", 40),
    "pictures": Part(BIG, "pictures", 40),
    "graphs": Part(BIG, "graphs", 30),
    "diffusers-graphs": Part(BIG, "diffusers_graphs", 20),
    "agreement": Part(AGREEMENT, "parts", 20),
    "tests": Part(AGREEMENT, "tests", 30),
    "batches": Part(MINI, "batches", 30),
    "training": Part(TRAINING, "stages", 50),
    "training-more": Part(TRAINING, "more_stages", 40),
    "compiled": Part(BIG, "compiled", 90, compiles=True),
    "diffusers-compiled": Part(BIG, "diffusers_compiled", 90, early=2, compiles=True),
    "mini-compiled": Part(MINI, "compiled", 90, early=2, compiles=True),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=4, help="in all; what does not fit is skipped")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="in this order")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json")
    parser.add_argument("--tiny", action="store_true", help="small models and pictures, to try the code")
    parser.add_argument("--one-process", action="store_true", help="a crash ends all of it, but no import is repeated")
    options = parser.parse_args(arguments)
    seconds = 60 * options.minutes - 5  # to end and tidy up
    started = time.monotonic()
    # two parts compile at a time; half of the CPU is for what is measured meanwhile
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 2) // 4)))
    chosen = {name: PARTS[name] for name in options.parts}
    about = "One GPU; full-sized models have random weights, 512 px, guidance. " + (
        "Tiny models: the figures mean nothing." if options.tiny else ""
    )
    results = Results(lambda: Table("gpu", about.strip(), COLUMNS, options.device, options.out))
    run = in_this_process if options.one_process else in_processes
    run(chosen, options.device, options.tiny, results, seconds - (time.monotonic() - started))
    print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
