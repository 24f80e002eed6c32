"""Schedulers with few steps: distance from DDIM's limit of many steps, and time.

`python -m benchmarks.quality.schedulers [--model mini] [--data val-000.tar --pictures 8] [--guidance 5]`: the same
noise and photos for all; root mean square difference of the results' chroma from that of `--limit` DDIM steps, in
1/255, and the difference between two seeds. `--shared` also compares `shared_control` with the default, at 50 DDIM
steps.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks import Table
from seada_core.pipeline import Colorizer

RUNS = [("ddim", n) for n in (2, 10, 20, 50)] + [(name, n) for name in ("unipc", "dpm++") for n in (5, 10, 15, 20)]
EXAMPLE = Path(__file__).resolve().parents[2] / "samples" / "photo.jpg"


def photos(data: str | None, count: int, side: int) -> torch.Tensor:
    """Grey squares (B, 1, side, side) of a training source, or views of the example photo."""
    if data:
        from seada_core.train.sources import samples

        images = [Image.open(io.BytesIO(encoded)) for _, encoded, _ in islice(samples(data), count)]
    else:
        example = Image.open(EXAMPLE)
        images = [example.crop((left, 0, left + example.height, example.height)) for left in (0, 100, 200)][:count]
    squares = [ImageOps.fit(image.convert("L"), (side, side), Image.Resampling.LANCZOS) for image in images]
    return torch.tensor(np.stack(squares), dtype=torch.float32)[:, None] / 255


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device")
    parser.add_argument("--data", help="shards or a folder of photos (default: the example photo)")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--shared", action="store_true")
    options = parser.parse_args(arguments)
    colorizer = Colorizer.from_pretrained(options.model, options.device)
    gray = photos(options.data, options.pictures, colorizer.preset.sampling.size)
    prompts = colorizer.caption(gray.to(colorizer.device))

    def chroma(seed: int = 0, **more) -> tuple[torch.Tensor, float]:
        started = time.perf_counter()
        result = colorizer.chroma(gray, prompt=prompts, guidance=options.guidance, seed=seed, **more).cpu()
        return result, time.perf_counter() - started

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return (a - b).pow(2).mean().sqrt().item() * 255

    about = f"{options.model}, {len(gray)} photos of {gray.shape[-1]} px, guidance {options.guidance}"
    columns = ["RMS distance of chroma from the limit, 1/255", "s"]
    table = Table("schedulers", about, columns, str(colorizer.device))
    limit, seconds = chroma(steps=options.limit)
    table.add(f"ddim {options.limit}, the limit (mean chroma {limit.abs().mean() * 255:.1f})", 0.0, seconds)
    table.add("another seed", distance(chroma(seed=1, steps=50)[0], limit), None)
    for name, steps in RUNS:
        result, seconds = chroma(steps=steps, scheduler=name)
        table.add(f"{name} {steps}", distance(result, limit), seconds)
    if options.shared:
        apart, slow = chroma(steps=50)
        shared, quick = chroma(steps=50, shared_control=True)
        name = f"shared_control, ddim 50, from ddim 50 ({quick / slow:.2f} of its time)"
        table.add(name, distance(shared, apart), quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
