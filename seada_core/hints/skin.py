"""Skin: the face, arms and hands of a photo's people take one tone, and colours no stronger than skin has."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.merging import upsample_chroma
from ..color.sizes import size_of
from .affinity import smoothstep
from .people import PeopleFinder

SIZE = 208  # short side at which skin is looked for, px; hands are small
SURELY = 0.3, 0.7  # probability of skin: up to the first, nothing is changed; from the second, all is
WARM, DOUBT = 3.0, 0.03  # logits that the warmest colours add to a probability of skin, if it is above the second
WARMEST = 1 / 6  # Cr of the warmest colours
LEAST = 0.001  # share of a photo that is surely skin, below which nothing is changed
# (Cb, Cr) of skin of the luminance Y is Y (1 - Y) (a + b Y): a and b, fitted to the true colours of 330 training photos
TONE = (-0.136, 0.264), (-0.306, 0.266)
OWN = 0.5  # how much of a photo's own tone is kept
AROUND = 0.03  # distance of (Cb, Cr) from the tone that colours of skin may have
LIPS = 0.06  # and of what lies amid skin, from the mean of the square around it
SQUARE = 0.4  # side of that square, of the square root of the skin's area
AMID = 0.5, 0.8  # share of the square that is skin: up to the first, nothing differs from the mean


def typical(gray: Tensor) -> Tensor:
    """The mean chroma (B, 2, H, W) of skin of a luminance (B, 1, H, W) in [0, 1]."""
    gray = gray.clamp(0, 1)
    return torch.cat([gray * (1 - gray) * (a + b * gray) for a, b in zip(*TONE)], dim=1)


def find_skin(finder: PeopleFinder, gray: Tensor, chroma: Tensor) -> Tensor:
    """How surely places are skin, (B, 1, H, W) in [0, 1]; gray (B, 1, H, W) in [0, 1], chroma (B, 2, H, W).

    What may be skin, and was given a warm colour, is likely to be skin: hands, which are small, would be missed else.
    """
    logits = finder.skin(gray, SIZE)
    cb, cr = F.adaptive_avg_pool2d(chroma, size_of(logits)).to(logits).split(1, dim=1)
    warm = ((cr - cb.clamp_min(0) / 2) / WARMEST).clamp(0, 1)
    chance = torch.sigmoid(logits + WARM * warm * (logits.sigmoid() > DOUBT))
    surely = smoothstep(chance, *SURELY).to(chroma).expand(-1, 2, -1, -1)
    return upsample_chroma(surely, gray.to(chroma))[:, :1].clamp(0, 1)


def even_skin(chroma: Tensor, gray: Tensor, skin: Tensor) -> Tensor:
    """A photo's chroma (B, 2, H, W) with the colours of its skin near to one tone, and that near to `typical`.

    The tone is the median of what the skin's colours differ from typical ones. Colours that are farther from it than
    `AROUND` (a grey arm, a red hand) are brought to that distance; what has skin all around it (lips) may differ more.

    Args:
        gray: (B, 1, H, W) in [0, 1].
        skin: what surely is skin (B, 1, H, W) in [0, 1].
    """
    rows = []
    for own, usual, share in zip(chroma, typical(gray), skin):
        surely = share[0] > 0.5
        if surely.float().mean() < LEAST:
            rows.append(own)
            continue
        apart = own - usual
        tone = apart[:, surely].median(dim=1).values[:, None, None]
        apart = apart - tone
        radius = round(SQUARE * math.sqrt(int(surely.sum())) / 2)
        sums = F.avg_pool2d(torch.cat([apart * share, share]), 2 * radius + 1, 1, radius)
        mean, amid = sums[:-1] / sums[-1:].clamp_min(1e-6), smoothstep(sums[-1:], *AMID)
        lips = _shorter(apart - mean, LIPS) * amid
        rows.append(torch.lerp(own, usual + OWN * tone + _shorter(torch.lerp(apart, mean, amid), AROUND) + lips, share))
    return torch.stack(rows)


def _shorter(vectors: Tensor, most: float) -> Tensor:
    """Vectors (C, H, W) of at most that length."""
    return vectors * (most / vectors.norm(dim=0).clamp_min(most))
