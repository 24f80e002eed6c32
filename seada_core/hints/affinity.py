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
from ..models.affinity import Affinity, Embedded, classifier_maps
from ..models.efficientnet import EfficientNetLite
from ..models.people import WORN, People
from .maps import CORRECTION_PRIOR, apply_hints, resize_hint_map

MOST_HINTS = 1024  # cells with hints of a picture; more are thinned out
DECIDED = 0.1, 0.6  # all hints' share of a place, below which nothing of them arrives there, and above which all
EVENED = 0.7  # how far a hint's colour covers a thing's own variation, see `Affinities.correction`
LOCAL_PRIOR = 20.0  # of `apply_hints`, where affinities have already carried hints over their things
LONGEST = 4
SPREAD = 4.0  # logits that a hint of the spread 1 gains over no hint
SEEDS = 0.45, 0.87  # of a thing's best score: cells up to the first are surely around it, from the second surely in it
GROWN = 0.2, 0.8  # the same of its highest share of a cell, for the second pass
REGION = 0.5, 0.8  # of its highest share: what is surely not of its region, and what surely is
BARE = ("skin", "hair")  # of people: what no colour of their clothes reaches, nor of each other
LIKELY = 0.1, 0.35  # probability of these or of clothes: hardly, and likely


def hint_cells(hint_map: Tensor, most: int = MOST_HINTS) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of a hint map (B, C, h, w) that have hints: places (B, N, 2), values (B, N, C) and valid (B, N).

    The cells of a picture that has more than `most` are thinned out evenly.
    """
    found = [mask.nonzero() for mask in hint_map[:, 2] > 0]
    found = [cells[:: -(-len(cells) // most)] if len(cells) > most else cells for cells in found]
    count = max(1, *map(len, found))
    places = hint_map.new_zeros(len(found), count, 2, dtype=torch.long)
    values = hint_map.new_zeros(len(found), count, hint_map.shape[1])
    valid = hint_map.new_zeros(len(found), count, dtype=torch.bool)
    for i, cells in enumerate(found):
        places[i, : len(cells)], valid[i, : len(cells)] = cells, True
        values[i, : len(cells)] = hint_map[i][:, cells[:, 0], cells[:, 1]].mT
    return places, values, valid


def embedded_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size (H, W) at which a photo of `size` is embedded: short side about `side`, multiples of 16.

    The long side is at most `LONGEST` times `side`, so that strips fit in memory.
    """
    scale = min(side / min(size), LONGEST * side / max(size))
    height, width = (max(16, 16 * round(n * scale / 16)) for n in size)
    return height, width


def with_kept(hint_map: Tensor, chroma: Tensor) -> Tensor:
    """A hint map (B, 3 or 5, H, W) in which places that keep their chroma (B, 2, H, W) are hints of that chroma; they
    alone have 1 in the fifth channel."""
    if hint_map.shape[1] == 3:
        return hint_map
    kept = hint_map[:, 4:] > hint_map[:, 2:3]
    own = torch.cat([chroma, torch.ones_like(chroma[:, :1])], dim=1)
    return torch.cat([torch.where(kept, own, hint_map[:, :3]), hint_map[:, 3:4], kept.to(hint_map)], dim=1)


def reach(values: Tensor) -> Tensor | None:
    """The bias (B, N) of hints whose cells have the values (B, N, 3 or 5), see `Affinity.shares`."""
    return None if values.shape[2] == 3 else values[..., 3] * SPREAD


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, and smooth between them."""
    x = ((x - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)


class Seen(NamedTuple):
    """What is known of photos before there are hints."""

    embedded: Embedded
    body: Tensor | None  # (B, 3, h, w), how likely skin, hair, and what people wear are; None without that part

    @property
    def size(self) -> tuple[int, int]:
        """The cells (h, w)."""
        return size_of(self.embedded[0])


class Affinities(NamedTuple):
    """The parts that say how far hints reach, and the classifier whose features they take: the controller's."""

    affinity: Affinity
    classifier: EfficientNetLite
    people: People | None = None

    @torch.no_grad()
    def look(self, gray: Tensor) -> Seen:
        """What is to be known of grey photos (B, 1, H, W) in [0, 1]; it does not depend on hints."""
        small = resize(gray, embedded_size(size_of(gray), self.affinity.config.size)).clamp(0, 1)
        small = small.to(self.affinity.out.weight)
        maps = classifier_maps(small, self.classifier)
        return Seen(self.affinity(small, maps), None if self.people is None else _body(*self.people.body(maps)))

    def shares(self, seen: Seen, hint_map: Tensor) -> tuple[Tensor, Tensor]:
        """How much of each hint arrives at each cell (B, N, h, w), and the values of the hints' cells (B, N, 3 or 5).

        A hint on somebody's clothes does not reach their skin or hair, however much they are one thing.

        Args:
            hint_map: (B, 3 or 5, h, w), on the grid (h, w) of the cells.
        """
        places, values, valid = hint_cells(hint_map)
        shares = self.affinity.shares(seen.embedded, places, valid, reach(values)).to(values)
        if seen.body is not None:
            shares = shares * (1 - _differs(seen.body.to(values), places))
        return shares, values

    @torch.no_grad()
    def correction(self, chroma: Tensor, gray: Tensor, hint_map: Tensor, seen: Seen | None = None) -> Tensor:
        """What hints (B, 3 or 5, H, W) change in a photo's chroma (B, 2, H, W); gray (B, 1, H, W) in [0, 1].

        The difference between a hint and the chroma there arrives at each place in the hint's share, brought to full
        size with the luminance as guide; so does `EVENED` of the difference between the chroma there and at the place
        itself. With 1, a thing would take exactly the hint's colour; with 0, keep all of its own variation. What is
        doubtful is decided, see `DECIDED`. Places that keep their colour, see `with_kept`, only take shares of others.

        Args:
            seen: of the photos, if it is there already.
        Returns:
            (B, 2, H, W).
        """
        missing = torch.where(hint_map[:, 2:3] > 0, hint_map[:, :2] - (1 - EVENED) * chroma, 0)
        seen = self.look(gray) if seen is None else seen
        hints = resize_hint_map(torch.cat([missing, hint_map[:, 2:]], dim=1), seen.size)
        shares, values = self.shares(seen, hints)
        total = shares.sum(1, keepdim=True)
        shares = shares * (smoothstep(total, *DECIDED) / total.clamp_min(1e-6))
        if values.shape[2] == 5:
            shares = shares * (1 - values[..., 4, None, None])
        change = torch.einsum("bnc,bnhw->bchw", values[..., :2], shares)
        change = change - EVENED * shares.sum(1, keepdim=True) * F.adaptive_avg_pool2d(chroma, seen.size)
        return upsample_chroma(change, gray)

    @torch.no_grad()
    def region(self, gray: Tensor, score: Tensor, seen: Seen) -> Tensor:
        """The region (B, 1, H, W) in [0, 1] of a thing: what belongs together with the best cells of its scores rather
        than with the cells of low ones. The second of two passes starts from what is certain after the first.

        Args:
            gray: photos (B, 1, H, W) in [0, 1].
            score: (B, 1, any h, any w) in [0, 1]; where it is 0 everywhere, so is the region.
            seen: of the photos, the same for all things.
        """
        here = F.interpolate(score, seen.size, mode="bilinear")
        found = here / here.amax((2, 3), keepdim=True).clamp_min(1e-6)
        for around, inside in (SEEDS, GROWN):
            shares, values = self.shares(seen, _seeds(found <= around, found >= inside))
            found = torch.einsum("bn,bnhw->bhw", values[..., 0], shares)[:, None]
            found = found / found.amax((2, 3), keepdim=True).clamp_min(1e-6)
        found = smoothstep(found, *REGION)
        return upsample_chroma(found.expand(-1, 2, -1, -1), gray)[:, :1].clamp(0, 1)


def _body(person: Tensor, worn: Tensor) -> Tensor:
    """What `Seen.body` is, of what `People.body` returns."""
    chance = person.sigmoid() * worn.softmax(1)
    bare = chance[:, [WORN.index(name) for name in BARE]]
    clothes = chance.sum(1, keepdim=True) - bare.sum(1, keepdim=True)
    kinds = torch.cat([bare, clothes], 1)
    return smoothstep(kinds, *LIKELY)


def _differs(body: Tensor, places: Tensor) -> Tensor:
    """How likely cells are another kind of `Seen.body` (B, 3, h, w) than places (B, N, 2) are: (B, N, h, w).

    A place that may be of two kinds is of none, and differs from nothing.
    """
    kinds = body.shape[1]
    index = (places[..., 0] * body.shape[3] + places[..., 1])[:, None].expand(-1, kinds, -1)
    here = body.flatten(2).gather(2, index)  # (B, 3, N)
    found = body.new_zeros(places.shape[:2] + body.shape[2:])
    for kind in range(kinds):
        others = [other for other in range(kinds) if other != kind]
        only = here[:, kind] * (1 - here[:, others].amax(1))
        found += only[..., None, None] * body[:, others].amax(1, keepdim=True)
    return found


def _seeds(around: Tensor, inside: Tensor) -> Tensor:
    """A hint map (B, 3, h, w) whose first channel is 1 inside a thing. Where there are too many cells around it, they
    are thinned out evenly, but none inside."""
    count = around.flatten(1).cumsum(1)
    step = -(-count[:, -1:] // (MOST_HINTS - inside.flatten(1).sum(1, keepdim=True)).clamp_min(MOST_HINTS // 2))
    around = around & ~inside & (count % step.clamp_min(1) == 0).view_as(around)
    return torch.cat([inside, torch.zeros_like(inside), inside | around], dim=1).float()


def classifier_of_control(has: Callable[[str], bool], part: Callable[[str], nn.Module]) -> EfficientNetLite | None:
    """The classifier of a model's controller, where there are such."""
    return (
        getattr(getattr(part("controlnet_rca"), "mapper", None), "classifier", None) if has("controlnet_rca") else None
    )


def affinities_of(has: Callable[[str], bool], part: Callable[[str], nn.Module]) -> Affinities | None:
    """Those of a model that has the part, and a controller with a classifier."""
    classifier = classifier_of_control(has, part) if has("affinity") else None
    if classifier is None:
        return None
    people = cast("People", part("people")) if has("people") else None
    return Affinities(cast("Affinity", part("affinity")), classifier, people)


def follow_hints(
    chroma: Tensor,
    gray: Tensor,
    hints: Tensor | None,
    soft_hints: Tensor | None,
    affinities: Affinities | None,
    seen: Seen | None = None,
) -> Tensor:
    """A photo's chroma (B, 2, H, W) in the colours of hint maps (B, 3, H, W); gray (B, 1, H, W).

    Soft hints are blended in by their mask. Hints (which may have 5 channels) are then carried over the things that
    they are on, where there are affinities, and over similar pixels, see `apply_hints`, which is exact at the hints
    themselves. `seen`: see `Affinities.correction`.
    """
    chroma = own = rgb_to_ycbcr(merge_chroma(chroma, gray))[:, 1:]
    if soft_hints is not None:
        chroma = torch.lerp(chroma, soft_hints[:, :2], soft_hints[:, 2:])
    if hints is None:
        return chroma
    hints = with_kept(hints, own)
    if affinities is not None:
        chroma = to_gamut(gray, chroma + affinities.correction(chroma, gray, hints, seen))
        # what a place cannot show is not missing there: else a click on a highlight would tint whatever looks like it
        hints = torch.cat([to_gamut(gray, hints[:, :2]), hints[:, 2:3]], dim=1)
    return apply_hints(chroma, gray, hints[:, :3], CORRECTION_PRIOR if affinities is None else LOCAL_PRIOR)
