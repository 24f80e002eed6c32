"""Hint maps from points, discs, strokes, masks and pictures, and samplers of training hints.

A hint map is a float tensor (B, 3, H, W): (Cb, Cr, mask). The mask is in [0, 1]; chroma is 0 where the mask is 0. With
places that keep the model's colour, or hints that spread more or less than usual, it has two more channels, spread and
keep; where `keep` is 1, the mask is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.merging import to_gamut
from ..color.sizes import size_of
from ..color.spaces import rgb_to_ycbcr
from ..files.hint_format import KEEP, Hint, Stroke, parse_color
from .propagation import propagate
from .superpixels import quantize, slic

PATCH = 2  # side of a sampled point hint, px
SUPERPIXELS = 100  # per training picture
QUANTIZED_COLORS = 32
CORRECTION_PRIOR = 2.0  # see `propagate`
COLORED, SHOWN = 0.06, 0.03  # (Cb, Cr) of a colour that is not grey, and the least of it that can be seen


def _chroma(color: str) -> Tensor:
    """(Cb, Cr) of "#rrggbb", shape (2,)."""
    return rgb_to_ycbcr(torch.tensor(parse_color(color)).view(3, 1, 1))[1:].flatten()


def palette_chroma(palette: Iterable[str]) -> Tensor:
    """The chroma (N + 1, 2) of colours "#rrggbb"; grey, the last one, is always allowed."""
    return torch.stack([*(_chroma(color) for color in palette), torch.zeros(2)])


def scheme_colors(palette: Iterable[str]) -> Tensor:
    """Y, Cb, Cr (N + 2, 3) of colours "#rrggbb", for `ccd.scheme_distance`; black and white belong to every scheme."""
    colors = [parse_color(color) for color in (*palette, "#000000", "#ffffff")]
    return rgb_to_ycbcr(torch.tensor(colors).T[:, :, None]).flatten(1).T


def hint_map(hints: Iterable[Hint | Stroke], size: tuple[int, int], photo_size: tuple[int, int]) -> Tensor:
    """Hints given on a photo of `photo_size` (H0, W0), drawn on a map of `size` (H, W): (1, 3 or 5, H, W).

    A disc covers the map pixels whose centres lie in it, and every hint covers at least the pixel that contains it. A
    stroke is the union of the capsules around its segments, and at least the pixels on its line, clipped to the photo.
    Where hints overlap, the later one wins. Raises ValueError for a hint, or a stroke's whole line, outside the photo.
    """
    (height, width), (photo_height, photo_width) = size, photo_size
    scale = width / photo_width, height / photo_height
    # centres of the map's pixels, in pixels of the photo
    x, y = (np.arange(width) + 0.5) / scale[0], (np.arange(height)[:, None] + 0.5) / scale[1]
    looks: dict[tuple[str, float], int] = {}
    drawn = np.full((height, width), -1, dtype=np.int32)  # index into looks
    for hint in hints:
        points = hint.points if isinstance(hint, Stroke) else ((hint.x, hint.y),)
        # a coordinate names a pixel of the photo; the hint is at its centre
        line = [(math.floor(px) + 0.5, math.floor(py) + 0.5) for px, py in points]
        if len(line) == 1:
            inside = 0 <= line[0][0] < photo_width and 0 <= line[0][1] < photo_height
        else:
            segments = _clip(np.array([line[:-1], line[1:]]).swapaxes(0, 1), (photo_width, photo_height))
            inside = len(segments) > 0
        if not inside:
            what = f"stroke {hint.color} from" if isinstance(hint, Stroke) else f"hint {hint.color} at"
            raise ValueError(
                f"{what} ({points[0][0]:g}, {points[0][1]:g}) lies outside the photo, which is {photo_width} wide and "
                f"{photo_height} high"
            )
        color = looks.setdefault((hint.color, float(hint.spread)), len(looks))
        if hint.radius:
            for a, b in zip(line, line[1:] or line):
                _draw_capsule(drawn, x, y, a, b, float(hint.radius), color)
        if len(line) == 1:
            row, column = int(line[0][1] * scale[1]), int(line[0][0] * scale[0])
            drawn[min(row, height - 1), min(column, width - 1)] = color
        else:
            _draw_line(drawn, segments * scale, color)
    kept = torch.tensor([color == KEEP for color, _ in looks] + [False])
    colors = [(0.0, 0.0, 0.0) if color == KEEP else parse_color(color) for color, _ in looks]
    rgb = torch.tensor([*colors, (0, 0, 0)], dtype=torch.float32)
    chroma = rgb_to_ycbcr(rgb.T[..., None])[1:, :, 0]  # (2, looks + 1): index -1, no hint, is the last
    index = torch.from_numpy(drawn).long()
    result = [chroma[:, index], ((index >= 0) & ~kept[index])[None].float()]
    spread = torch.tensor([*(spread for _, spread in looks), 0.0])
    if kept.any() or spread.any():
        result += [spread[index][None], kept[index][None].float()]
    return torch.cat(result)[None]


def hidden_hints(hints: Iterable[Hint | Stroke], gray: Tensor, photo_size: tuple[int, int]) -> str:
    """What to say of hints whose places are so dark or so light that no colour can show there; empty if there are none.

    gray: the photo (1, 1, any h, any w) in [0, 1]; photo_size: the size (H, W) that the hints are for.
    """
    (height, width), found = size_of(gray), []
    for hint in hints:
        wanted = torch.zeros(2) if hint.color == KEEP else _chroma(hint.color)
        if wanted.norm() < COLORED:
            continue
        points = torch.tensor(hint.points if isinstance(hint, Stroke) else ((hint.x, hint.y),), dtype=torch.float32)
        reach = hint.radius * torch.tensor([[0.0, 0.0], [0.7, 0.7], [-0.7, 0.7], [0.7, -0.7], [-0.7, -0.7]])
        x, y = ((points.floor() + 0.5)[:, None] + reach).flatten(0, 1).T
        rows = (y * height / photo_size[0]).long().clamp(0, height - 1)
        columns = (x * width / photo_size[1]).long().clamp(0, width - 1)
        here = gray[0, :, rows, columns].cpu()[..., None]
        if to_gamut(here, wanted.view(2, 1, 1).expand(-1, *here.shape[1:])).norm(dim=0).max() < SHOWN:
            found.append(points[0].tolist())
    if not found:
        return ""
    x, y = found[0]
    many = "a hint lies" if len(found) == 1 else f"{len(found)} hints lie"
    where = "at" if len(found) == 1 else "the first at"
    return f"{many} on black or white, where no colour can show, {where} ({x:g}, {y:g})"


def _clip(ends: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Segments (N, 2 ends, xy) clipped to the rectangle from (0, 0) to `size` (W, H), without those outside.

    Liang and Barsky 1984.
    """
    start, step = ends[:, 0], ends[:, 1] - ends[:, 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.stack([(0 - start) / step, (np.array(size) - start) / step])
    level = step == 0  # constant along this axis: inside or outside as a whole
    within = (start >= 0) & (start < size)
    enter = np.where(level, 0, t.min(axis=0)).max(axis=1).clip(0)
    leave = np.where(level, 1, t.max(axis=0)).min(axis=1).clip(max=1)
    kept = (within | ~level).all(axis=1) & (enter <= leave)
    start, step = start[kept], step[kept]
    return np.stack([start + enter[kept, None] * step, start + leave[kept, None] * step], axis=1)


def _draw_capsule(
    drawn: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    a: tuple[float, float],
    b: tuple[float, float],
    radius: float,
    color: int,
) -> None:
    """Draw `color` where the pixels' centres (x, y) are within `radius` of the segment from a to b."""
    reach = radius + 1e-6  # tolerance for rounding
    rows, columns = (
        slice(*np.searchsorted(centres, (min(a[i], b[i]) - reach, max(a[i], b[i]) + reach)).tolist())
        for i, centres in ((1, y[:, 0]), (0, x))
    )
    x, y = x[columns] - a[0], y[rows] - a[1]
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    if length:
        t = np.minimum(np.maximum((x * dx + y * dy) / length, 0), 1)
        x, y = x - t * dx, y - t * dy
    drawn[rows, columns][x * x + y * y <= radius * radius] = color


def _draw_line(drawn: np.ndarray, segments: np.ndarray, color: int) -> None:
    """Draw `color` along segments (N, 2 ends, xy) in pixels of the map, at least one pixel per unit length."""
    height, width = drawn.shape
    step = segments[:, 1] - segments[:, 0]
    counts = np.ceil(np.abs(step).max(axis=1)).astype(int) + 1
    which = np.repeat(np.arange(len(segments)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    t = (np.arange(len(which)) - first) / np.maximum(counts[which] - 1, 1)
    x, y = (segments[which, 0] + t[:, None] * step[which]).T.astype(int)
    drawn[y.clip(0, height - 1), x.clip(0, width - 1)] = color


def _check_mask(mask: Tensor) -> Tensor:
    mask = mask.float()
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"a hint mask must have the shape (B, 1, H, W), got {tuple(mask.shape)}")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("a hint mask must lie in [0, 1]")
    return mask


def hint_map_from_mask(mask: Tensor, color: str) -> Tensor:
    """One colour "#rrggbb" wherever `mask` (B, 1, H, W) in [0, 1] is positive: (B, 3, H, W)."""
    mask = _check_mask(mask)
    return torch.cat([(mask > 0) * _chroma(color).to(mask.device).view(1, 2, 1, 1), mask], dim=1)


def hint_map_from_picture(picture: Tensor, mask: Tensor) -> Tensor:
    """The chroma of `picture` (B, 3, H, W) sRGB wherever `mask` (B, 1, H, W) in [0, 1] is positive: (B, 3, H, W)."""
    mask = _check_mask(mask)
    if picture.ndim != 4 or picture.shape[1] != 3 or picture.shape[-2:] != mask.shape[-2:]:
        raise ValueError(f"the picture has shape {tuple(picture.shape)}; expected (B, 3, H, W) with the mask's H, W")
    chroma = rgb_to_ycbcr(picture.float())[:, 1:]
    mask = mask.expand(len(picture), -1, -1, -1)
    return torch.cat([torch.where(mask > 0, chroma, 0), mask], dim=1)


def resize_hint_map(hint_map: Tensor, size: tuple[int, int], dense: bool = False) -> Tensor:
    """A hint map (B, 3 or 5, h, w) at `size` (H, W).

    Chroma is the mask-weighted mean over a pixel, so that a small hint keeps its colour; the mask is the maximum, so
    that it keeps its weight, or the mean for a `dense` map, such as that of `spread_hints`.
    """
    if hint_map.shape[1] > 3:
        colors, spread, kept = hint_map.split([3, 1, 1], dim=1)
        present = torch.maximum(colors[:, 2:], kept)
        reach = resize_hint_map(torch.cat([spread, kept, present], dim=1), size, dense)
        kept = F.adaptive_max_pool2d(kept, size)
        return torch.cat([resize_hint_map(colors, size, dense), reach[:, :1], kept], dim=1)
    chroma, mask = hint_map[:, :2], hint_map[:, 2:]
    larger = all(new >= old for new, old in zip(size, hint_map.shape[-2:]))
    smooth = partial(F.interpolate, size=size, mode="bilinear")
    resize = smooth if dense and larger else partial(F.adaptive_avg_pool2d, output_size=size)
    weight = resize(mask)
    mean = resize(chroma * mask) / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    return torch.cat([mean, weight if dense else F.adaptive_max_pool2d(mask, size)], dim=1)


def any_hint_map(
    hints: Iterable[Hint | Stroke] | Tensor, gray: Tensor, photo_size: tuple[int, int], dense: bool = False
) -> Tensor:
    """The hint map (B, 3 or 5, h, w), on their device, of hints for grey photos (B, 1, h, w).

    Args:
        hints: points and strokes in pixels of the photo of `photo_size` (H, W), or a map (1 or B, 3 or 5, any, any).
        dense: see `resize_hint_map`.
    Raises:
        ValueError: the map has another shape, or values that are not finite.
    """
    size = size_of(gray)
    if not isinstance(hints, Tensor):
        drawn = hint_map(hints, size, photo_size)
    elif hints.ndim == 4 and hints.shape[0] in (1, len(gray)) and hints.shape[1] in (3, 5):
        if not torch.isfinite(hints).all():
            raise ValueError("the hint map has values that are not finite")
        drawn = resize_hint_map(hints.float(), size, dense)
    else:
        raise ValueError(f"a hint map must be (1 or {len(gray)}, 3, h, w), not {tuple(hints.shape)}")
    return drawn.to(gray.device).expand(len(gray), -1, -1, -1)


def superpixel_labels(rgb: Tensor, n_segments: int = SUPERPIXELS) -> Tensor:
    """Labels (B, H, W) of the SLIC superpixels of each colour-quantised picture (B, 3, H, W), for caching."""
    return torch.stack([slic(quantize(picture, QUANTIZED_COLORS)[0], n_segments) for picture in rgb])


def sample_superpixel_hints(
    rgb: Tensor,
    generator: torch.Generator,
    reveal: tuple[float, float] = (0.3, 0.5),
    n_segments: int = SUPERPIXELS,
    labels: Tensor | None = None,
) -> Tensor:
    """EDN's training hints: a random share of the superpixels of the colour-quantised picture, with their mean chroma.

    rgb: (B, 3, H, W) sRGB in [0, 1]. reveal: the range of the share, sampled for each picture. labels: (B, H, W) from
    `superpixel_labels`, if cached. Returns a hint map (B, 3, H, W). The generator is used picture by picture, so that
    a batch gives the same hints as single pictures in order.
    """
    labels = superpixel_labels(rgb, n_segments) if labels is None else labels
    chroma = rgb_to_ycbcr(rgb.float())[:, 1:].flatten(2)
    maps = []
    for picture, label in zip(chroma, labels.flatten(1)):
        n = int(label.max()) + 1
        share = reveal[0] + (reveal[1] - reveal[0]) * torch.rand((), generator=generator, device=generator.device)
        order = torch.randperm(n, generator=generator, device=generator.device).to(label.device)
        shown = (order < round(float(share) * n)).to(picture)
        count = torch.bincount(label, minlength=n)
        mean = torch.zeros(2, n, device=picture.device).index_add_(1, label, picture) / count.clamp_min(1)
        maps.append(torch.cat([mean * shown, shown[None]])[:, label])
    return torch.stack(maps).view(-1, *rgb.shape[1:])


def sample_point_hints(rgb: Tensor, generator: torch.Generator, max_points: int = 100) -> Tensor:
    """Training hints as users click them: 0 to `max_points` random patches of 2x2 pixels with their mean chroma.

    The number is floor((max_points + 1) u^3) for a uniform u: few points are common (half of the pictures have at most
    an eighth of the maximum), and about a fifth of the pictures have none.

    rgb: (B, 3, H, W) sRGB in [0, 1]. Returns a hint map (B, 3, H, W). The generator is used picture by picture.
    """
    height, width = rgb.shape[-2:]
    ph, pw = min(PATCH, height), min(PATCH, width)
    means = F.avg_pool2d(rgb_to_ycbcr(rgb.float())[:, 1:], (ph, pw), stride=1)  # (B, 2, H - ph + 1, W - pw + 1)
    result = torch.zeros_like(rgb, dtype=torch.float32)
    device = generator.device
    for mean, target in zip(means, result):
        u = float(torch.rand((), generator=generator, device=device))
        n = min(int((max_points + 1) * u**3), max_points)
        y = torch.randint(mean.shape[1], (n,), generator=generator, device=device).to(rgb.device)
        x = torch.randint(mean.shape[2], (n,), generator=generator, device=device).to(rgb.device)
        patch = torch.cat([mean[:, y, x], torch.ones(1, n, device=rgb.device)])
        # one pixel of the patches at a time: writes within one call never conflict, so their order does not matter
        for dy in range(ph):
            for dx in range(pw):
                target[:, y + dy, x + dx] = patch
    return result


def joined(upper: Tensor, lower: Tensor) -> Tensor:
    """Two hint maps (B, 3 or 5, H, W) as one: `upper` wins where it has hints or keeps the model's colour."""
    channels = max(upper.shape[1], lower.shape[1])
    upper, lower = (torch.cat([m, m.new_zeros(len(m), channels - m.shape[1], *m.shape[2:])], 1) for m in (upper, lower))
    return torch.where((upper[:, 2:3] > 0) | (upper[:, 4:].sum(1, keepdim=True) > 0), upper, lower)


def over(hint_map: Tensor, below: Tensor) -> Tensor:
    """One dense hint map (B, 3, H, W) composited over another: where both are certain, the upper one's colours."""
    upper = hint_map[:, 2:]
    lower = (1 - upper) * below[:, 2:]
    mask = upper + lower
    chroma = (upper * hint_map[:, :2] + lower * below[:, :2]) / mask.clamp_min(torch.finfo(mask.dtype).tiny)
    return torch.cat([chroma, mask], dim=1)


def apply_hints(chroma: Tensor, gray: Tensor, hint_map: Tensor, prior: float = CORRECTION_PRIOR) -> Tensor:
    """A photo's chroma (B, 2, H, W) corrected by hints (B, 3, H, W); gray: (B, 1, H, W); prior: see `propagate`.

    The difference between the hints and the chroma is propagated, and added in proportion to the squared confidence:
    hinted pixels get their colour, similar pixels shift with them but keep their own variation, and distant pixels are
    unchanged. With the square a click tints less of what it was not meant for, and ground-truth points help as much
    (`benchmarks.quality.hint_protocol --methods "all together" "confidence not squared"`).
    """
    mask = hint_map[:, 2:]
    missing = torch.where(mask > 0, hint_map[:, :2] - chroma, 0)
    correction, confidence = propagate(gray, torch.cat([missing, mask], dim=1), prior=prior)
    return chroma + confidence**2 * correction


def spread_hints(gray: Tensor, hint_map: Tensor) -> Tensor:
    """Hints propagated over the photo: gray (B, 1, H, W), hint map (B, 3, H, W) to a dense hint map (B, 3, H, W).

    The mask is the squared confidence: a hint's weight fades before its colour does.
    """
    chroma, confidence = propagate(gray, hint_map)
    return torch.cat([chroma, confidence**2], dim=1)
