"""Sizes, captions and batches of the trainer's tests; see also `pictures` and `encoder_file` in conftest.py."""

from __future__ import annotations

import torch
from torch import Tensor

from seada_core.train.batches import Batch

CAPTIONS = ["a photo of a dog", "a photo of green grass", "a photo of the sea"]
SIZES = [
    "--text.width=32", "--text.layers=1", "--text.heads=2", "--text.length=16",
    "--unet.channels", "32", "32", "64", "--unet.heads=2", "--unet.context-dim=32", "--unet.groups=8",
    "--adapter.length=16", "--adapter.width=32", "--control.head-dim=16",
]  # fmt: skip


def make_batch(rgb: Tensor | int, latent: Tensor | None = None, **values) -> Batch:
    """A batch of pictures (B, 3, H, W), or of two random ones of a size; what is not given is made up."""
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
