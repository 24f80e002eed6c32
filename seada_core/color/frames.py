"""Photos inside a picture: within a uniform frame or a scanner's lid, or several on a page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 512  # longest side at which frames are looked for, px
_NOISE, _STEP = 6 / 255, 12 / 255  # deviation of a uniform line's values; difference of what is not the ground
_DUST = 0.015  # share of a line that may differ from the ground
_SMALLEST = 0.06  # side of a photo, of the page's
_SPECK = 0.004  # area of what does not count: dust, captions
_GAP = 0.006  # width of the ground between photos, of the page's longest side
_FILLED = 0.6  # share of a photo's edges that differs from the ground
_DEPTH = 3  # frames in frames
_BAND = 16  # lines that are looked at together: most photos have no margin


class Box(NamedTuple):
    """A rectangle of a picture, px."""

    top: int
    left: int
    bottom: int
    right: int

    def moved(self, down: int, across: int) -> Box:
        """The box elsewhere."""
        return Box(self.top + down, self.left + across, self.bottom + down, self.right + across)

    def of(self, picture: np.ndarray) -> np.ndarray:
        """What is inside, `(H, W, ...)`."""
        return picture[self.top : self.bottom, self.left : self.right]


def photos(luminance: np.ndarray) -> list[Box]:
    """The photos in a picture `(H, W)`, uint8 or float in [0, 1], in reading order; none if all of it is one photo.

    A frame is a margin of one tone with a straight edge to what is inside; where it goes all around, what it separates
    are photos of their own. Things in front of a plain ground fill no rectangle, so they do not count as photos.
    """
    small = _small(luminance)
    whole = Box(0, 0, *small.shape)
    found = _inside(small, whole, _DEPTH)
    if found == [whole]:
        return []
    scale = luminance.shape[0] / small.shape[0], luminance.shape[1] / small.shape[1]
    return [_sharpened(luminance, box, scale) for box in sorted(found)]


def _small(luminance: np.ndarray) -> np.ndarray:
    """The picture at `SIDE`, averaged, float32 in [0, 1]."""
    image = Image.fromarray(luminance)
    factor = max(1, max(luminance.shape) // SIDE)
    small = np.asarray(image.reduce(factor) if factor > 1 else image, np.float32)
    return small / 255 if luminance.dtype == np.uint8 else small


def _inside(x: np.ndarray, box: Box, depth: int) -> list[Box]:
    """The photos inside a box; the box itself if it is one."""
    inside = box.of(x)
    if depth == 0 or min(inside.shape) < 24:
        return [box]
    sides = [inside[0], inside[-1], inside[:, 0], inside[:, -1]]
    ground = float(np.median(np.concatenate(sides)))
    if all(_is_ground(side, ground).mean() >= 1 - 4 * _DUST and _spread(side) <= _NOISE for side in sides):
        leaves = _leaves(_is_ground(inside, ground), x.shape)
        if leaves is None or leaves == [Box(0, 0, *inside.shape)]:
            return [box]
        return [photo for leaf in leaves for photo in _inside(x, leaf.moved(box.top, box.left), depth - 1)]
    cut = _without_margins(inside)
    if cut == Box(0, 0, *inside.shape):
        return [box]
    return _inside(
        x, Box(cut.top + box.top, cut.left + box.left, cut.bottom + box.top, cut.right + box.left), depth - 1
    )


def _spread(line: np.ndarray) -> float:
    return float(np.median(np.abs(line - np.median(line))) * 1.5)


def _is_ground(values: np.ndarray, ground: float) -> np.ndarray:
    return np.abs(values - ground) < _STEP


def _leaves(ground: np.ndarray, page: tuple[int, ...]) -> list[Box] | None:
    """What the ground (H, W) separates into rectangles; None where that is not photos."""
    pending, leaves = [Box(0, 0, *ground.shape)], []
    gap = max(2, round(_GAP * max(page)))
    while pending:
        box = pending.pop()
        rows, columns = (box.of(ground).mean(axis) < 1 - _DUST for axis in (1, 0))
        if not rows.any() or not columns.any():
            continue
        (top, bottom), (left, right) = _ends(rows), _ends(columns)
        tight = Box(box.top + top, box.left + left, box.top + bottom, box.left + right)
        parts = _parted(tight, rows[top:bottom], columns[left:right], gap)
        if len(parts) > 1 or parts[0] != box:
            pending += parts
        else:
            leaves.append(box)
    page_area, side = page[0] * page[1], max(page)
    leaves = [b for b in leaves if (b.bottom - b.top) * (b.right - b.left) > _SPECK * page_area]
    small = any(min(b.bottom - b.top, b.right - b.left) < _SMALLEST * side for b in leaves)
    if not leaves or small or not all(_filled(b.of(ground)) for b in leaves):
        return None
    return leaves


def _ends(lines: np.ndarray) -> tuple[int, int]:
    there = np.flatnonzero(lines)
    return int(there[0]), int(there[-1]) + 1


def _parted(box: Box, rows: np.ndarray, columns: np.ndarray, gap: int) -> list[Box]:
    """A box parted at gaps between rows, or else between columns; itself without any."""
    for lines, across in ((rows, False), (columns, True)):
        runs = _runs(lines, gap)
        if len(runs) > 1:
            return [
                Box(box.top, box.left + a, box.bottom, box.left + b) if across
                else Box(box.top + a, box.left, box.top + b, box.right) for a, b in runs
            ]  # fmt: skip
    return [box]


def _runs(lines: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Runs of True, of which those nearer than `gap` are one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lines.astype(np.int8), [0]])))
    runs: list[tuple[int, int]] = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist()):
        if runs and start - runs[-1][1] < gap:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    return runs


def _filled(ground: np.ndarray) -> bool:
    """Whether what is not ground fills a rectangle: three of its sides, to the most part."""
    sides = sorted(1 - line.mean() for line in (ground[:2], ground[-2:], ground[:, :2], ground[:, -2:]))
    return bool(np.mean(sides) >= _FILLED and sides[1] >= _FILLED / 2 and ground.mean() < 0.5)


def _without_margins(inside: np.ndarray) -> Box:
    """A box without the margins of one tone that end at a straight edge."""
    height, width = inside.shape
    top, bottom = _margin(inside), _margin(inside[::-1])
    left, right = _margin(inside.T), _margin(inside.T[::-1])
    if height - top - bottom < height / 4 or width - left - right < width / 4:
        return Box(0, 0, height, width)
    return Box(top, left, height - bottom, width - right)


def _margin(x: np.ndarray) -> int:
    """How many of the first rows are a margin."""
    ground = float(np.median(x[0]))
    count = 0
    for start in range(0, len(x), _BAND):
        band = x[start : start + _BAND]
        uniform = (_is_ground(band, ground).mean(1) >= 1 - 4 * _DUST) & (np.abs(np.median(band, 1) - ground) < _NOISE)
        if not uniform.all():
            count = start + int(np.argmin(uniform))
            break
    if count < max(2, 0.01 * len(x)) or count > len(x) / 2:
        return 0
    beyond = x[count : count + 3]
    return count if float((1 - _is_ground(beyond, ground)).max(0).mean()) > 0.8 else 0


def _sharpened(luminance: np.ndarray, box: Box, scale: tuple[float, float]) -> Box:
    """A box of the small picture in the picture's own pixels, each edge where the frame really ends."""
    unit = 1.0 if luminance.dtype != np.uint8 else 1 / 255
    outer = Box(*(round(v * s) for v, s in zip(box, (*scale, *scale))))
    edges = list(outer)
    for k, (axis, start) in enumerate(((0, True), (1, True), (0, False), (1, False))):
        reach = int(np.ceil(scale[axis])) + 1
        length = luminance.shape[axis]
        low, high = max(0, outer[k] - reach), min(length, outer[k] + reach)
        if outer[k] in (0, length) or high - low < 2:
            continue
        lines = (
            luminance[low:high, outer.left : outer.right]
            if axis == 0
            else luminance[outer.top : outer.bottom, low:high].T
        )
        lines = lines.astype(np.float32) * unit
        lines = lines if start else lines[::-1]
        differs = np.abs(lines - np.median(lines[0])) >= _STEP
        first = int(np.argmax(differs.mean(1) > _FILLED / 2)) if (differs.mean(1) > _FILLED / 2).any() else reach
        edges[k] = low + first if start else high - first
    return Box(*edges)
