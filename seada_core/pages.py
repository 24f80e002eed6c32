"""Pictures that hold photos within frames, or several on a page: each is coloured as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .color.frames import Box, photos
from .color.merging import MERGED_ON_DEVICE, merge_chroma, merge_on_device, merge_tiled
from .color.sizes import DECODE_SIZE, decode_size
from .color.spaces import luminance as luminance_of
from .files.hint_format import Hint, Stroke
from .hints.maps import any_hint_map
from .options import ColorizeOptions

if TYPE_CHECKING:
    from .pipeline import Colorizer

Callback = Callable[[int, int], None]
Color = Callable[[np.ndarray, ColorizeOptions, Callback | None], np.ndarray]

__all__ = ["Box", "check_hints", "color_array", "color_photos", "color_tensor", "photos"]


def color_photos(
    luminance: np.ndarray,
    boxes: Sequence[Box],
    options: ColorizeOptions,
    color: Color,
    callback: Callback | None = None,
) -> np.ndarray:
    """RGB `(H, W, 3)` of a picture `(H, W)`, uint8 or float in [0, 1], in whose boxes photos are coloured.

    Args:
        boxes: see `color.frames.photos`. What is outside them stays neutral.
        options: those of every photo; a tuple of prompts has one for each. Hints are those of the whole picture.
        color: RGB, uint8 or uint16 `(h, w, 3)`, of one photo.
    """
    result: np.ndarray | None = None
    for k, box in enumerate(boxes):
        own = _within(box, luminance.shape, options)
        if isinstance(options.prompt, tuple):
            own = replace(own, prompt=options.prompt[k])
        progress = None if callback is None else _part_of(callback, k, len(boxes))
        rgb = color(np.ascontiguousarray(box.of(luminance)), own, progress)
        if result is None:
            result = _neutral(luminance, rgb.dtype)
        box.of(result)[:] = rgb
    assert result is not None
    return result


def color_array(
    colorizer: Colorizer, luminance: np.ndarray, options: ColorizeOptions, callback: Callback | None = None
) -> np.ndarray:
    """uint8 RGB `(H, W, 3)` of a picture's luminance `(H, W)`, uint8 or float in [0, 1]; see `Colorizer.__call__`."""

    def color(photo: np.ndarray, own: ColorizeOptions, progress: Callback | None) -> np.ndarray:
        gray = torch.tensor(photo, device=colorizer.device)[None, None]
        gray = gray.float() / 255 if photo.dtype.kind == "u" else gray.float()
        chroma = colorizer.chroma(gray, own, callback=progress)
        if colorizer.device.type == "cpu" or photo.size > MERGED_ON_DEVICE:
            return merge_tiled(chroma[0].float().cpu(), photo)
        return merge_on_device(chroma, gray)

    boxes = photos(luminance)
    if not boxes:
        return color(luminance, options, callback)
    check_hints(options, (luminance.shape[0], luminance.shape[1]))
    return color_photos(luminance, boxes, options, color, callback)


def color_tensor(
    image: Tensor, options: ColorizeOptions, chroma: Callable[..., Tensor], callback: Callback | None = None
) -> Tensor:
    """Pictures (B, 3 or 1, H, W) or (3 or 1, H, W) in [0, 1] as RGB of their dtype; see `Colorizer.__call__`.

    In a single one the photos in it are coloured one by one. `chroma` is `Colorizer.chroma`. Raises ValueError for
    other shapes.
    """
    batch = image if image.ndim == 4 else image[None]
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape:
        raise ValueError(f"expected (B, 3, H, W) or (3, H, W), grey or colour, not {tuple(image.shape)}")
    gray = (luminance_of(batch) if batch.shape[1] == 3 else batch).float().clamp(0, 1)
    boxes = photos(gray[0, 0].cpu().numpy()) if len(gray) == 1 else []
    if not boxes:
        rgb = merge_chroma(chroma(gray, options, callback=callback).to(gray.device), gray)
    else:
        check_hints(options, (gray.shape[-2], gray.shape[-1]))
        rgb = gray.repeat(1, 3, 1, 1)
    for k, box in enumerate(boxes):
        own = _within(box, gray.shape[-2:], options)
        progress = None if callback is None else _part_of(callback, k, len(boxes))
        photo = gray[..., box.top : box.bottom, box.left : box.right]
        maps = chroma(photo, own, callback=progress)
        rgb[..., box.top : box.bottom, box.left : box.right] = merge_chroma(maps.to(gray.device), photo)
    rgb = rgb.to(image.dtype)
    return rgb if image.ndim == 4 else rgb[0]


def _neutral(luminance: np.ndarray, dtype: np.dtype) -> np.ndarray:
    gray = luminance
    if dtype != luminance.dtype:
        gray = np.round(np.clip(luminance, 0, 1) * np.iinfo(dtype).max).astype(dtype)
    return np.repeat(gray[..., None], 3, axis=-1)


def _within(box: Box, size: tuple[int, ...], options: ColorizeOptions) -> ColorizeOptions:
    """Options for the photo in a box of a picture of `size`: hints outside it are dropped, the others moved."""
    changes: dict[str, Any] = {}
    if isinstance(options.hints, Tensor):
        changes["hints"] = _share(options.hints, box, size)
    elif len(options.hints):
        changes["hints"] = tuple(moved for hint in options.hints if (moved := _moved(hint, box)))
    if options.soft_hints is not None:
        changes["soft_hints"] = _share(options.soft_hints, box, size)
    return replace(options, **changes)


def _moved(hint: Hint | Stroke, box: Box) -> Hint | Stroke | None:
    """A hint in pixels of the photo; None if it is outside."""
    points = hint.points if isinstance(hint, Stroke) else ((hint.x, hint.y),)
    moved = tuple((x - box.left, y - box.top) for x, y in points)
    if not any(0 <= x < box.right - box.left and 0 <= y < box.bottom - box.top for x, y in moved):
        return None
    if isinstance(hint, Stroke):
        return replace(hint, points=moved)
    return replace(hint, x=moved[0][0], y=moved[0][1])


def _share(maps: Tensor, box: Box, size: tuple[int, ...]) -> Tensor:
    """The part of a hint map (B, 3, h, w) of the whole picture that belongs to a box."""
    edges = []
    for start, stop, length, cells in (
        (box.top, box.bottom, size[0], maps.shape[-2]),
        (box.left, box.right, size[1], maps.shape[-1]),
    ):
        first = min(cells - 1, round(start * cells / length))
        edges.append((first, max(first + 1, round(stop * cells / length))))
    (top, bottom), (left, right) = edges
    return maps[..., top:bottom, left:right]


def check_hints(options: ColorizeOptions, size: tuple[int, int]) -> None:
    """Raises ValueError for hints outside a picture (height, width), as colouring it whole would."""
    if len(options.hints):
        any_hint_map(options.hints, torch.empty(1, 1, *decode_size(size, min(64, DECODE_SIZE))), size)


def _part_of(callback: Callback, number: int, count: int) -> Callback:
    return lambda done, steps: callback(number * steps + done, count * steps)
