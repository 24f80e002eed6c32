"""Sizes, captions and batches of the trainer's tests; see also `pictures` and `encoder_file` in conftest.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tars import png, write_tar
from torch import Tensor

from seada_core.presets import TrainConfig
from seada_core.train.batches import Batch

CAPTIONS = ["a photo of a dog", "a photo of green grass", "a photo of the sea"]
SIZES = [
    "--text.width=32", "--text.layers=1", "--text.heads=2", "--text.length=16",
    "--unet.channels", "32", "32", "64", "--unet.heads=2", "--unet.context-dim=32", "--unet.groups=8",
    "--adapter.length=16", "--adapter.width=32", "--control.head-dim=16",
]  # fmt: skip


def small_config(**changes) -> TrainConfig:
    """Steps on two crops of 64 px in full precision."""
    return replace(TrainConfig(), resolution=64, crop=64, batch=2, precision="no", **changes)


def make_batch(rgb: Tensor | int, latent: Tensor | None = None, **values) -> Batch:
    """A batch of pictures (B, 3, H, W), or of two random ones of a size; other values are random by default."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(rgb, int):
        rgb = torch.rand(2, 3, rgb, rgb, generator=generator)
    count, _, height, width = rgb.shape
    if latent is None:
        latent = torch.randn(count, 4, height // 8, width // 8, generator=generator)
    texts = [CAPTIONS[k % len(CAPTIONS)] for k in range(count)]
    uniform = (torch.arange(count) + 0.5) / count
    made = {"captions": texts, "color_captions": texts, "places": list(range(count)), "uniform": uniform}
    return Batch(rgb, latent, **{**made, "seeds": list(range(1, count + 1)), **values})


def encode(rgb: Tensor) -> Tensor:
    """Replaces the latent encoder: the cells' mean colours and their brightness."""
    means = torch.nn.functional.avg_pool2d(rgb, 8)
    return torch.cat([means, means.mean(1, keepdim=True)], 1)


def write_shards(folder: Path, shards: int, each: int) -> Path:
    """Webdataset shards `data-000.tar`, ... of small pictures with captions; the keys are `0-0`, `0-1`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for shard in range(shards):
        members = {}
        for i in range(each):
            picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8))
            members |= {f"{shard}-{i}.png": png(picture), f"{shard}-{i}.txt": f"picture {i} of {shard}".encode()}
        write_tar(folder / f"data-{shard:03}.tar", members)
    return folder


def learn(stage, parts, batch, steps, rate=3e-3):
    """Trains a stage on one batch: its losses, its last terms, and the names of the parts that changed."""
    before = {p: {n: t.clone() for n, t in module.state_dict().items()} for p, module in parts.items()}
    optimizer = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], rate)
    losses = []
    for _ in range(steps):
        terms = stage.train()(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    changed = {p for p, m in parts.items() if any(not torch.equal(t, before[p][n]) for n, t in m.state_dict().items())}
    return losses, terms, changed
