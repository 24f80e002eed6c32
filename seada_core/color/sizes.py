"""The sizes at which a photo is diffused and decoded."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

DECODE_SIZE = 512  # largest short side at which hints are applied to decoded chroma, px; then guided upsampling
LONGEST = 4  # long side over short side beyond which a photo is squeezed for diffusion


def size_of(picture: Tensor) -> tuple[int, int]:
    """(height, width) of a picture (..., H, W)."""
    return picture.shape[-2], picture.shape[-1]


def diffusion_size(photo: tuple[int, int], size: int) -> tuple[int, int]:
    """The photo's shape with its short side at `size`, both sides multiples of 8."""
    scale = size / min(photo)
    height, width = (min(max(8, round(side * scale / 8) * 8), size * LONGEST) for side in photo)
    return height, width


def decode_size(photo: tuple[int, int], short: int) -> tuple[int, int]:
    """The photo's own size where its short side is at most `short`, else scaled down to it."""
    scale = min(1.0, short / min(photo), short * LONGEST / max(photo))
    height, width = (max(1, round(side * scale)) for side in photo)
    return height, width


def resize(gray: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (B, C, H, W) in [0, 1] at (height, width) `size`, antialiased; unchanged if it has that size."""
    if size_of(gray) == size:
        return gray
    return F.interpolate(gray, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
