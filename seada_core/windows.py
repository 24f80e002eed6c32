"""Photos of extreme shapes, coloured in overlapping windows of one context: strips, panoramas, long scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .color.sizes import DECODE_SIZE, decode_size, diffusion_size, resize, size_of
from .hints.maps import any_hint_map
from .options import ColorizeOptions

if TYPE_CHECKING:
    from .pipeline import Colorizer

# Long side over short side beyond which a photo is coloured in windows. Measured, as all of these, where regions of
# long crops are compared with square ones (python -m benchmarks.quality.archives --only crops).
ELONGATED = 3
LONGEST = 60  # and beyond which it is squeezed instead: it shows nothing that could be recognised
OVERLAP = 2 / 3  # of neighbouring windows, at least: three show each place
FADE = 0.1  # of a window's length, in which it fades in and out
MIDDLE = 2.0  # what the middle window counts, others 1: a photo that is cropped to a square shows it
ROUNDS, NEAR = 10, 0.004  # of the median's iteration; the distance of (Cb, Cr) below which colours are equal
PART = 512  # length of the parts whose median is taken at once, which needs several times their memory, px
TOGETHER = 4  # windows that are coloured at once


def is_elongated(photo: tuple[int, int]) -> bool:
    """Whether a photo (height, width) is coloured in windows."""
    return ELONGATED * min(photo) < max(photo) <= LONGEST * min(photo)


def spans(length: int, window: int, scale: float) -> list[tuple[int, int]]:
    """Where windows start: in pixels of the photo, and in those of its chroma, `scale` times as many.

    They are evenly spaced, the first at the start, the last at the end, and one in the middle of `length`.
    """
    count = 1 + -(-(length - window) // max(1, round(window * (1 - OVERLAP))))
    count += 1 - count % 2
    room, low_room = length - window, round(length * scale) - round(window * scale)
    return [(round(k * room / max(1, count - 1)), round(k * low_room / max(1, count - 1))) for k in range(count)]


def in_windows(
    colorizer: Colorizer, gray: Tensor, options: ColorizeOptions, callback: Callable[[int, int], None] | None
) -> Tensor:
    """(Cb, Cr) maps (B, 2, h, w) of elongated photos (B, 1, H, W), from square windows.

    Where they overlap, it is their median, which a window that sees other colours than its neighbours does not change.

    Args:
        options: without a prompt, all windows share the caption of the whole photo; hints are those of the whole photo.
    """
    height, width = size_of(gray)
    along, side = (-1 if width >= height else -2), min(height, width)
    if options.prompt is None:
        whole = resize(gray, diffusion_size((height, width), options.resolved(colorizer.preset).size))
        options = replace(options, prompt=colorizer.caption(whole.to(colorizer.device)))
    options, hints, soft = _as_maps(gray, options)
    layers: list[Tensor] = []  # (B, 3, h, w): (Cb, Cr) and weights of windows that do not overlap
    places: list[tuple[int, int]] = []
    starts = [start for start, _ in spans(max(height, width), side, 1.0)]
    rounds = -(-len(starts) // TOGETHER)
    for number in range(rounds):
        chunk = range(number * TOGETHER, min(len(starts), (number + 1) * TOGETHER))
        windows = torch.cat([gray.narrow(along, starts[k], side) for k in chunk])
        fields: dict[str, Any] = {}
        for name, maps in (("hints", hints), ("soft_hints", soft)):
            if maps is not None:
                fields[name] = torch.cat([_share(maps, along, starts[k], side, max(height, width)) for k in chunk])
        if isinstance(options.prompt, tuple):
            fields["prompt"] = options.prompt * len(chunk)
        progress = None if callback is None else _part_of(callback, number, rounds)
        maps = colorizer.chroma(windows, replace(options, **fields), callback=progress).unflatten(
            0, (len(chunk), len(gray))
        )
        low = size_of(maps)[0]
        if not layers:
            places = spans(max(height, width), side, low / side)
            length = round(max(height, width) * low / side)
            shape = (low, length) if along == -1 else (length, low)
            layers = [maps.new_zeros(len(gray), 3, *shape) for _ in range(_deepest([at for _, at in places], low))]
        weight = ((torch.arange(low, device=maps.device) + 0.5) / low / FADE).clamp(max=1)
        weight = torch.minimum(weight, weight.flip(0))
        weight = weight[:, None] if along == -2 else weight
        for k, window in zip(chunk, maps):
            there = layers[k % len(layers)].narrow(along, places[k][1], low)
            there[:, :2] = window
            there[:, 2:] = weight * (MIDDLE if 2 * k == len(starts) - 1 else 1.0)
    parts = zip(*(layer.split(PART, along) for layer in layers))
    return torch.cat([_median(torch.stack(part)) for part in parts], along)


def _deepest(starts: list[int], window: int) -> int:
    """How many windows show one place, at most."""
    return max(sum(start <= at < start + window for start in starts) for at in starts)


def _median(layers: Tensor) -> Tensor:
    """The geometric median (B, 2, h, w) of (Cb, Cr) with weights (N, B, 3, h, w), by Weiszfeld's iteration."""
    colors, weights = layers[:, :, :2], layers[:, :, 2:]
    found = (weights * colors).sum(0) / weights.sum(0)
    for _ in range(ROUNDS):
        shares = weights / (colors - found).norm(dim=2, keepdim=True).clamp(min=NEAR)
        found = (shares * colors).sum(0) / shares.sum(0)
    return found


def _as_maps(gray: Tensor, options: ColorizeOptions) -> tuple[ColorizeOptions, Tensor | None, Tensor | None]:
    """Options without hints, and the hints as maps of the whole photo."""
    hints = soft = None
    if len(options.hints) or options.soft_hints is not None:
        size = size_of(gray)
        like = gray.new_empty(1, 1, *decode_size(size, max(DECODE_SIZE, options.size or 0)))
        if len(options.hints):
            hints = any_hint_map(options.hints, like.cpu(), size)
        if options.soft_hints is not None:
            soft = any_hint_map(options.soft_hints, like.cpu(), size, dense=True)
    return replace(options, hints=(), soft_hints=None), hints, soft


def _share(maps: Tensor, along: int, start: int, side: int, length: int) -> Tensor:
    """The part of a map of the whole photo that belongs to a window of it."""
    cells = maps.shape[along]
    first = min(round(start * cells / length), cells - 1)
    return maps.narrow(along, first, max(1, min(round(side * cells / length), cells - first)))


def _part_of(callback: Callable[[int, int], None], number: int, rounds: int) -> Callable[[int, int], None]:
    return lambda done, steps: callback(number * steps + done, rounds * steps)
