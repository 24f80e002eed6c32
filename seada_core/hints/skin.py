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
SURELY = 0.3, 0.7  # probability of skin: up to the first it is not brought to one tone; from the second it surely is
PERHAPS = 0.05, 0.5  # the same for colours that skin cannot have
WARM, DOUBT = 3.0, 0.03  # logits that the warmest colours add to a probability of skin, if it is above the second
WARMEST = 1 / 6  # Cr of the warmest colours
LEAST = 0.001  # share of a photo that is surely skin, below which nothing is changed
# (Cb, Cr) of skin of the luminance Y is Y (1 - Y) (a + b Y): a and b, fitted to the true colours of 330 training photos
TONE = (-0.136, 0.264), (-0.306, 0.266)
OWN = 0.5  # how much of a photo's own tone is kept
AROUND = 0.03  # distance of (Cb, Cr) from the tone that colours of skin may have
LIPS = 0.02  # and of what lies amid skin, from the mean of the square around it
SQUARE = 0.4  # side of that square, of the square root of the skin's area
AMID = 0.5, 0.8  # share of the square that is skin: up to the first, nothing differs from the mean
REACH = 0.2  # how far what skin's wild colours stain is looked for, share of the short side
WILD = 0.1, 0.2  # length of (Cb, Cr) up to which skin's colour stains nothing, and from which it does
HUES = 12  # that are told apart for it
ALIKE = 0.8, 0.9  # cosine between two hues: up to the first they are different, from the second the same
CELL = 4  # px that are taken together for it


def typical(gray: Tensor) -> Tensor:
    """The mean chroma (B, 2, H, W) of skin of a luminance (B, 1, H, W) in [0, 1]."""
    gray = gray.clamp(0, 1)
    return torch.cat([gray * (1 - gray) * (a + b * gray) for a, b in zip(*TONE)], dim=1)


def find_skin(finder: PeopleFinder, gray: Tensor, chroma: Tensor) -> Tensor:
    """How surely places are skin, and whether they may be, (B, 2, H, W) in [0, 1], by `SURELY` and `PERHAPS`.

    gray (B, 1, H, W) in [0, 1], chroma (B, 2, H, W).

    What may be skin, and was given a warm colour, is likely to be skin: hands, which are small, would be missed else.
    """
    logits = finder.skin(gray, SIZE)
    cb, cr = F.adaptive_avg_pool2d(chroma, size_of(logits)).to(logits).split(1, dim=1)
    warm = ((cr - cb.clamp_min(0) / 2) / WARMEST).clamp(0, 1)
    chance = torch.sigmoid(logits + WARM * warm * (logits.sigmoid() > DOUBT)).to(chroma)
    shares = torch.cat([smoothstep(chance, *SURELY), smoothstep(chance, *PERHAPS)], dim=1)
    return upsample_chroma(shares, gray.to(chroma)).clamp(0, 1)


def even_skin(chroma: Tensor, gray: Tensor, skin: Tensor) -> Tensor:
    """A photo's chroma (B, 2, H, W) with the colours of its skin near to one tone, and that near to `typical`.

    The tone is the median of what the skin's colours differ from typical ones. Colours that are farther from it than
    `AROUND` (a grey arm, a red hand) are brought near to it, the nearer the farther they were, see `_redescending`;
    what has skin all around it (lips) may differ more, and so may what is less surely skin. Wild colours have often
    stained what is beside them (a sleeve), see `_calm`.

    Args:
        gray: (B, 1, H, W) in [0, 1].
        skin: what surely is skin, and what may be (B, 2, H, W), each in [0, 1].
    """
    rows = []
    for own, usual, sure, perhaps in zip(chroma, typical(gray), skin[:, :1], skin[:, 1:]):
        surely = sure[0] > 0.5
        if surely.float().mean() < LEAST:
            rows.append(own)
            continue
        apart = own - usual
        tone = apart[:, surely].median(dim=1).values[:, None, None]
        apart = apart - tone
        radius = round(SQUARE * math.sqrt(int(surely.sum())) / 2)
        sums = _mean_around(torch.cat([apart * sure, sure]), radius)
        mean, amid = sums[:-1] / sums[-1:].clamp_min(1e-6), smoothstep(sums[-1:], *AMID)
        lips = _redescending(apart - mean, LIPS) * amid
        middle = usual + OWN * tone
        evened = torch.lerp(own, middle + _redescending(torch.lerp(apart, mean, amid), AROUND) + lips, sure)
        far = evened - middle
        nearer = evened + (_redescending(far, (AROUND + LIPS * amid) / perhaps.clamp_min(1e-3)) - far)
        evened = nearer * _share(nearer, _length(evened))  # what is grey stays so: it may be something else
        rows.append(_calm(evened, own, middle, perhaps))
    return torch.stack(rows)


def _calm(evened: Tensor, own: Tensor, middle: Tensor, skin: Tensor) -> Tensor:
    """`evened` (2, H, W) in which places near skin lose the share of their strength that skin of their own hue lost.

    Args:
        own: the colours before (2, H, W).
        middle: what skin would have there (2, H, W); nothing gets weaker than that.
        skin: how surely places are skin (1, H, W) in [0, 1].
    """
    before, after, share = F.avg_pool2d(torch.cat([own, evened, skin]), CELL, ceil_mode=True).split([2, 2, 1])
    length = _length(before).clamp_min(1e-4)
    kept = ((after * before).sum(0) / length.square()).clamp(0, 1)
    radius = max(1, round(REACH * min(size_of(own)) / CELL / 2))
    lost = F.max_pool2d(share * smoothstep(length, *WILD) * (1 - kept) * _hues(before), 2 * radius + 1, 1, radius)
    lost = F.interpolate(_mean_around(lost, radius)[None], size_of(own), mode="bilinear")[0]
    lost = (lost * _hues(own)).amax(0) * (1 - skin)
    least = (_length(middle) / _length(evened).clamp_min(1e-4)).clamp(max=1)
    return evened * torch.maximum(1 - lost, least)


def _hues(colors: Tensor) -> Tensor:
    """How near the hues of colours (2, H, W) are to each of `HUES`, (HUES, H, W) in [0, 1]."""
    angles = torch.arange(HUES, device=colors.device) * (2 * math.pi / HUES)
    hues = torch.stack([angles.cos(), angles.sin()], 1).to(colors)
    return smoothstep(torch.einsum("kc,chw->khw", hues, colors / _length(colors).clamp_min(1e-6)), *ALIKE)


def _redescending(vectors: Tensor, most: float | Tensor) -> Tensor:
    """Vectors (C, H, W) of at most that length; of longer ones the shorter the longer they are, since what is far off
    is wrong (as redescending estimators have it, Hampel 1974)."""
    return vectors * _share(vectors, most).square()


def _share(vectors: Tensor, most: float | Tensor) -> Tensor:
    """The share of vectors (C, H, W), at most 1, that has at most that length: (H, W)."""
    return (most / _length(vectors).clamp_min(1e-6)).clamp(max=1)


def _length(vectors: Tensor) -> Tensor:
    """(H, W) of vectors (C, H, W); `Tensor.norm` takes several times as long."""
    return vectors.square().sum(0).sqrt()


def _mean_around(x: Tensor, radius: int) -> Tensor:
    """The mean of x (C, H, W) over the square around each place, with 0 beyond the border."""
    side = 2 * radius + 1
    return F.avg_pool2d(F.avg_pool2d(x, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))
