"""Training samples per second, against plain decoding of the same JPEGs by Pillow.

`python -m benchmarks.speed.data_loading [--size 512] [--workers 2] [--batch 32] [--steps 12]`: 64 pictures (noise
over a smooth background, as large as photos) in a cache in two parts, read by the trainer's own loader. The peer
opens and decodes each of the same files in as many processes.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks import Table
from seada_core.train.batches import Batches
from seada_core.train.cache import build_shares, join_shares
from seada_core.train.data import Cache

COUNT = 64


class Plain(Dataset):
    """The pictures of a batch, decoded by Pillow and nothing else."""

    def __init__(self, cache: Cache, batch: int):
        self.cache, self.batch = cache, batch

    def __getitem__(self, step: int) -> int:
        for k in range(self.batch):
            self.cache.picture((step * self.batch + k) % len(self.cache)).load()
        return step


def write_pictures(folder: Path, size: int) -> int:
    """`COUNT` JPEGs; returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    total = 0
    for i in range(COUNT):
        ground = Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize((size, size), Image.BICUBIC)
        noise = rng.normal(0, 8, (size, size, 1))
        picture = Image.fromarray((np.asarray(ground) + noise).clip(0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        total += buffer.tell()
        (folder / f"{i}.jpg").write_bytes(buffer.getvalue())
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return total // COUNT


def rate(dataset: Dataset, workers: int, batch: int, steps: int) -> float:
    """Pictures per second, from the second batch of every worker on."""
    skipped = max(1, workers)
    loader = DataLoader(dataset, batch_size=None, sampler=range(steps + skipped), num_workers=workers)
    started = 0.0
    for step, _ in enumerate(loader):
        if step == skipped - 1:
            started = time.perf_counter()
    return steps * batch / (time.perf_counter() - started)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    encode = lambda rgb: torch.nn.functional.avg_pool2d(rgb, 8).repeat(1, 2, 1, 1)[:, :4]  # noqa: E731
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        mean = write_pictures(folder / "pictures", options.size)
        build_shares(str(folder / "pictures"), folder / "cache", options.size, lambda: encode, shares=2)
        join_shares(folder / "cache", 2)
        cache = Cache(folder / "cache")
        datasets = {
            "training samples": Batches(cache, options.batch, options.size, seed=0),
            "Pillow, decoding": Plain(cache, options.batch),
        }
        rates: dict[str, list[float]] = {name: [] for name in datasets}
        for _ in range(options.repeats):
            for label, dataset in datasets.items():
                rates[label].append(rate(dataset, options.workers, options.batch, options.steps))
    best = {label: max(values) for label, values in rates.items()}
    about = f"{options.size} px, {mean / 1000:.0f} kB a source picture, {options.workers} worker processes"
    table = Table("data_loading", about, ["pictures a second", "ratio"])
    for label, value in best.items():
        table.add(label, value, value / best["Pillow, decoding"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
