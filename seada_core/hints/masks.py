"""Colours for masks, such as those of a segmenter or of a mask editor: soft hints that end at the photo's edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.merging import upsample_chroma
from ..color.sizes import size_of
from ..color.spaces import rgb_to_ycbcr
from ..files.hint_format import parse_color

CELLS = 32  # along the short side: a mask is fitted to edges that are about as far from its own


def fit_to_edges(mask: Tensor, gray: Tensor) -> Tensor:
    """Masks (B, 1, H, W) in [0, 1] whose borders move to edges of the photos (B, 1, H, W) that are near them."""
    scale = CELLS / min(size_of(gray))
    if scale >= 1:
        return mask
    height, width = (max(1, round(side * scale)) for side in size_of(gray))
    coarse = F.adaptive_avg_pool2d(mask, (height, width)).expand(-1, 2, -1, -1)
    return upsample_chroma(coarse, gray)[:, :1].clamp(0, 1)


def mask_hints(gray: Tensor, masks: Tensor, colors: Sequence[str], fit: bool = True) -> Tensor:
    """Soft hints (1, 3, H, W) for a photo (1, 1, H, W): each mask's colour, with the mask as its weight.

    Args:
        masks: (N, any h, any w) in [0, 1]; where they overlap, the later one wins.
        colors: one for each mask, or one for all, see `parse_color`.
        fit: move the masks' borders to the photo's edges.
    Raises:
        ValueError: another number of colours, or one that cannot be read.
    """
    if len(colors) not in (1, len(masks)):
        raise ValueError(f"{len(colors)} colours for {len(masks)} masks: expected one for each, or one for all")
    result = gray.new_zeros(1, 3, *size_of(gray))
    for mask, color in zip(masks, list(colors) * (len(masks) if len(colors) == 1 else 1)):
        here = F.interpolate(mask[None, None].to(gray).clamp(0, 1), size_of(gray), mode="bilinear", antialias=True)
        here = fit_to_edges(here, gray) if fit else here
        chroma = rgb_to_ycbcr(torch.tensor(parse_color(color)).view(1, 3, 1, 1))[:, 1:].to(gray)
        layer = torch.cat([chroma.expand(-1, -1, *size_of(gray)), here], dim=1)
        wins = here >= result[:, 2:]  # no line of mixed colours where two masks meet
        result = torch.where(wins & (here > 0), layer, result)
    return result
