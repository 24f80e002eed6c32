"""Sky, water, grass and leaves in colour photos, by their colours, textures and places: labels that nobody has to draw.

A grey photo does not show what these rules look at; a network that learns from their labels finds a grey sky as well.
What the rules do not decide stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.sizes import size_of
from ..color.spaces import rgb_to_lab
from ..models.affinity import CELL
from ..models.scenery import SCENERY

UNKNOWN = 255
NONE = 0
SKY, WATER, GRASS, LEAVES = (1 + SCENERY.index(name) for name in ("sky", "water", "grass", "leaves"))
# texts whose photos have water; without them, what is blue and low may be anything
_WATER = re.compile(
    r"\b(?:beach|boat|canoe|coast|harbou?r|kayak|lake|lakeshore|lakeside|ocean|pond|pool|river|sailboat|sea|seashore|ship"
    r"|surf(?:er|ing)?|swim(?:ming)?|water|waterfall|wave)s?\b",
    re.IGNORECASE,
)
_STEP = 9.0  # in CIE Lab, between neighbours that are one sky
_DARK = 15.0  # lightness below which nothing is known


def label_scenery(rgb: Tensor, texts: Sequence[str]) -> Tensor:
    """What the cells of colour photos (B, 3, H, W) in [0, 1] show, (B, H / CELL, W / CELL) uint8.

    Args:
        texts: what is known of each photo; it decides about water.
    Returns:
        1 + k for `SCENERY[k]`, 0 for something else, `UNKNOWN` where that is not clear.
    """
    height, width = size_of(rgb)
    size = height // CELL, width // CELL
    lab = rgb_to_lab(rgb.float())
    lightness, square = (F.adaptive_avg_pool2d(x, size) for x in (lab[:, :1], lab[:, :1].square()))
    texture = (square - lightness.square()).clamp_min(0).sqrt()
    texture = F.avg_pool2d(F.pad(texture, (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    lab = F.adaptive_avg_pool2d(lab, size)
    lightness, a, b = lab.unbind(1)
    chroma = torch.hypot(a, b)
    y = torch.linspace(0, 1, size[0], device=rgb.device)[:, None].expand(size)

    blue = (b < -5) & (b.abs() > 0.8 * a.abs())
    teal = (a < -4) & (b < 2) & (chroma > 5)
    green = (a < -5) & (b > 4) & (b < 4.5 * a.abs())
    labels = torch.full_like(lightness, UNKNOWN, dtype=torch.uint8)
    wet = torch.tensor([bool(_WATER.search(text)) for text in texts], device=rgb.device)[:, None, None]
    other = (chroma > 9) & ~blue & ~teal & ~green & ((texture > 1.5) | (y > 0.5))  # what is smooth and high may be dusk
    neutral = (chroma < 7) & (y > 0.5) & ~wet  # roads, floors, cloth; what is high may be a grey sky
    labels[(other | neutral) & (lightness > _DARK)] = NONE

    sky = _sky(lab, texture, blue, y)
    found = sky.flatten(1).any(1)
    below = found[:, None, None] & ~sky & ~blue & ~teal & ~green & (y > 0.35) & (texture > 2) & (lightness > _DARK)
    labels[below] = NONE
    labels[sky] = SKY

    water = wet & (blue | teal) & ~sky & (y > 0.35) & (lightness > _DARK)
    labels[_enough(water, 0.06) & water] = WATER

    seeds = green & (y > 1 - 2.5 / size[0])
    grass = spread(seeds, green & (texture < 4.5) & (y > 0.45), lab, 14)
    grass &= _enough(grass, 0.06) & (grass[:, -3:].float().mean((1, 2)) > 0.4)[:, None, None]
    rough = green & (texture > 5) & ((y < 0.6) | (texture > 8))
    leaves = rough & (F.avg_pool2d(rough.float(), 5, 1, 2) > 0.5)
    labels[leaves & _enough(leaves, 0.04)] = LEAVES
    labels[grass] = GRASS
    return labels


def _sky(lab: Tensor, texture: Tensor, blue: Tensor, y: Tensor) -> Tensor:
    """Where (B, h, w) the sky is that is blue at its top; nowhere in photos without such."""
    lightness, chroma = lab[:, 0], lab[:, 1:].norm(dim=1)
    bright = lightness > 35
    seeds = blue & bright & (texture < 3.5)
    seeds[:, 2:] = False
    clouds = (lightness > 70) & (chroma < 10)
    sky = spread(seeds, (blue | clouds) & bright & (texture < 5), lab, _STEP)
    count = sky.sum((1, 2)).clamp_min(1)
    mostly_blue = (sky & blue).sum((1, 2)) > 0.5 * count
    high = ((sky * y).sum((1, 2)) < 0.5 * count) & ~sky[:, -3:].any(2).any(1)  # what reaches the bottom is a backdrop
    return sky & _enough(sky, 0.05) & (mostly_blue & high)[:, None, None]


def _enough(mask: Tensor, share: float) -> Tensor:
    """(B, 1, 1): whether masks (B, h, w) cover this share."""
    return mask.float().mean((1, 2), keepdim=True) > share


def spread(seeds: Tensor, allowed: Tensor, values: Tensor, step: float) -> Tensor:
    """All that seeds (B, h, w) reach within `allowed` (B, h, w), from neighbour to neighbour whose values (B, C, h, w)
    are less than `step` apart."""
    across = (values[..., 1:] - values[..., :-1]).norm(dim=1) < step
    down = (values[:, :, 1:] - values[:, :, :-1]).norm(dim=1) < step
    found = seeds & allowed
    while True:
        more = found.clone()
        more[..., 1:] |= found[..., :-1] & across
        more[..., :-1] |= found[..., 1:] & across
        more[:, 1:] |= found[:, :-1] & down
        more[:, :-1] |= found[:, 1:] & down
        more &= allowed
        if torch.equal(more, found):
            return found
        found = more
