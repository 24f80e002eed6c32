"""Hints carried over a photo by learned affinities: the whole of a thing takes a click's colour, and little else."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.merging import merge_chroma, to_gamut, upsample_chroma
from ..color.sizes import resize, size_of
from ..color.spaces import rgb_to_ycbcr
from ..models.affinity import Affinity, Embedded
from ..models.efficientnet import EfficientNetLite
from .maps import apply_hints, resize_hint_map

MOST_HINTS = 1024  # cells with hints of a picture; more are thinned out
DECIDED = 0.1, 0.6  # all hints' share of a place, below which nothing of them arrives there, and above which all
LONGEST = 4
SEED = 0.9  # of a thing's best score: the cells whose region is the thing's
REGION = 0.8, 0.95  # these cells' share of a place that is surely not of the region, and surely is


def hint_cells(hint_map: Tensor, most: int = MOST_HINTS) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of a hint map (B, 3, h, w) that have hints: places (B, N, 2), chroma (B, N, 2) and valid (B, N).

    The cells of a picture that has more than `most` are thinned out evenly.
    """
    found = [mask.nonzero() for mask in hint_map[:, 2] > 0]
    found = [cells[:: -(-len(cells) // most)] if len(cells) > most else cells for cells in found]
    count = max(1, *map(len, found))
    places = hint_map.new_zeros(len(found), count, 2, dtype=torch.long)
    chroma, valid = hint_map.new_zeros(len(found), count, 2), hint_map.new_zeros(len(found), count, dtype=torch.bool)
    for i, cells in enumerate(found):
        places[i, : len(cells)], valid[i, : len(cells)] = cells, True
        chroma[i, : len(cells)] = hint_map[i, :2, cells[:, 0], cells[:, 1]].mT
    return places, chroma, valid


def embedded_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size (H, W) at which a photo of `size` is embedded: short side about `side`, multiples of 16.

    The long side is at most `LONGEST` times `side`, so that strips fit in memory.
    """
    scale = min(side / min(size), LONGEST * side / max(size))
    height, width = (max(16, 16 * round(n * scale / 16)) for n in size)
    return height, width


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, and smooth between them."""
    x = ((x - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)


class Affinities(NamedTuple):
    """The part that says how far hints reach, and the classifier whose features it takes: the controller's."""

    affinity: Affinity
    classifier: EfficientNetLite

    @torch.no_grad()
    def embed(self, gray: Tensor) -> Embedded:
        """What `Affinity.embed` says of grey photos (B, 1, H, W) in [0, 1]; it does not depend on hints."""
        small = resize(gray, embedded_size(size_of(gray), self.affinity.config.size)).clamp(0, 1)
        return self.affinity.embed(small.to(self.affinity.out.weight), self.classifier)

    def shares(self, embedded: Embedded, cells: Callable[[tuple[int, int]], Tensor]) -> tuple[Tensor, Tensor]:
        """How much of each hint arrives at each cell (B, N, h, w), and the hints' chroma (B, N, 2).

        Args:
            cells: gives the hint map (B, 3, h, w) for the grid (h, w) of the embeddings.
        """
        places, chroma, valid = hint_cells(cells(size_of(embedded[0])))
        return self.affinity.shares(embedded, places, valid).to(chroma), chroma

    @torch.no_grad()
    def correction(self, chroma: Tensor, gray: Tensor, hint_map: Tensor, embedded: Embedded | None = None) -> Tensor:
        """What hints (B, 3, H, W) change in a photo's chroma (B, 2, H, W); gray (B, 1, H, W) in [0, 1].

        The difference between a hint and the chroma there arrives at each place in the hint's share, brought to full
        size with the luminance as guide. What is doubtful is decided, see `DECIDED`. `embedded`: of the photos, if it
        is there already. Returns (B, 2, H, W).
        """
        mask = hint_map[:, 2:]
        missing = torch.cat([torch.where(mask > 0, hint_map[:, :2] - chroma, 0), mask], dim=1)
        embedded = self.embed(gray) if embedded is None else embedded
        shares, differences = self.shares(embedded, lambda size: resize_hint_map(missing, size))
        total = shares.sum(1, keepdim=True)
        shares = shares * (smoothstep(total, *DECIDED) / total.clamp_min(1e-6))
        return upsample_chroma(torch.einsum("bnc,bnhw->bchw", differences, shares), gray)

    @torch.no_grad()
    def region(self, gray: Tensor, score: Tensor, embedded: Embedded) -> Tensor:
        """The region (B, 1, H, W) in [0, 1] of a thing: what belongs together with the best cells of its scores.

        Args:
            gray: photos (B, 1, H, W) in [0, 1].
            score: (B, 1, any h, any w) in [0, 1]; where it is 0 everywhere, so is the region.
            embedded: of the photos, the same for all things.
        """

        def best(size: tuple[int, int]) -> Tensor:
            here = F.interpolate(score, size, mode="bilinear")
            seeds = (here >= SEED * here.amax((2, 3), keepdim=True)) & (here > 0)
            return torch.cat([torch.zeros_like(here), torch.zeros_like(here), seeds.to(here)], dim=1)

        total = self.shares(embedded, best)[0].sum(1, keepdim=True)
        found = smoothstep(total, *REGION) * (score.amax((2, 3), keepdim=True) > 0)
        return upsample_chroma(found.expand(-1, 2, -1, -1), gray)[:, :1].clamp(0, 1)


def affinities_of(has: Callable[[str], bool], part: Callable[[str], nn.Module]) -> Affinities | None:
    """Those of a model that has the part, and a controller with a classifier."""
    if not (has("affinity") and has("controlnet_rca")):
        return None
    classifier = getattr(getattr(part("controlnet_rca"), "mapper", None), "classifier", None)
    return None if classifier is None else Affinities(cast("Affinity", part("affinity")), classifier)


def follow_hints(
    chroma: Tensor, gray: Tensor, hints: Tensor | None, soft_hints: Tensor | None, affinities: Affinities | None
) -> Tensor:
    """A photo's chroma (B, 2, H, W) in the colours of hint maps (B, 3, H, W); gray (B, 1, H, W).

    Soft hints are blended in by their mask. Hints are then carried over the things that they are on, where there are
    affinities, and over similar pixels, see `apply_hints`, which is exact at the hints themselves.
    """
    chroma = rgb_to_ycbcr(merge_chroma(chroma, gray))[:, 1:]
    if soft_hints is not None:
        chroma = torch.lerp(chroma, soft_hints[:, :2], soft_hints[:, 2:])
    if hints is None:
        return chroma
    if affinities is not None:
        chroma = to_gamut(gray, chroma + affinities.correction(chroma, gray, hints))
    return apply_hints(chroma, gray, hints)
