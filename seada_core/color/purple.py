"""Purples: what a small model paints where it hesitates between red and blue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# degrees of (Cb, Cr): purple from the second to the third, and not at all up to the first and from the last
HUES = -15.0, 7.5, 67.5, 90.0


def purple(chroma: Tensor) -> Tensor:
    """How purple colours (B, 2, H, W) are, whatever their strength: (B, 1, H, W) in [0, 1]."""
    cb, cr = chroma.split(1, dim=1)
    hue = torch.atan2(cr, cb).rad2deg()
    rising, falling = (hue - HUES[0]) / (HUES[1] - HUES[0]), (HUES[3] - hue) / (HUES[3] - HUES[2])
    return torch.minimum(rising, falling).clamp(0, 1)


def weaken_purple(chroma: Tensor, factors: Sequence[float]) -> Tensor:
    """Colours (B, 2, H, W) of which purples have this share of their chroma: one for all pictures, or one each."""
    if all(factor == 1 for factor in factors):
        return chroma
    return chroma * (1 - (1 - chroma.new_tensor(factors).view(-1, 1, 1, 1)) * purple(chroma))
