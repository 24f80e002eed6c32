"""Fills what is uncertain in a frame's chroma from what lies nearby and has a similar luminance."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .motion import Array

CELL, LEVELS = 8, 16  # of the bilateral grid: px, and steps of luminance
FARTHER = 1e-3  # weight of each wider ring of cells beside the one inside it
RINGS = 4


def fill(chroma: Array, certain: Array, luma: Array) -> Array:
    """Chroma (h, w, 2) with its uncertain parts replaced, `certain` and `luma` (h, w) in [0, 1].

    In a bilateral grid (Chen, Paris and Durand 2007): cells of place and luminance hold the average of what is certain
    in them, and pixels take that of their cell and its neighbours, from farther away only where these are empty.
    """
    height, width = luma.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    weight = np.square(certain)
    values = chroma[..., 0] * weight, chroma[..., 1] * weight, weight
    level = np.minimum((luma * LEVELS).astype(np.int64), LEVELS - 1)
    cells = (level * rows + (np.arange(height) // CELL)[:, None]) * columns + np.arange(width) // CELL
    size = LEVELS * rows * columns
    grid = np.stack([np.bincount(cells.ravel(), value.ravel(), size) for value in values])
    wider = grid.astype(np.float32).reshape(3, LEVELS, rows, columns)
    total, share = np.zeros_like(wider), np.float32(1)
    for ring in range(RINGS):
        for axis in (1, 2, 3):
            wider = _blur(wider, axis, 2**ring)
        total += share * wider
        share *= FARTHER
    place = np.empty((height, width, 3), np.float32)
    place[..., 0] = (2 * np.arange(width) + 1) / width - 1
    place[..., 1] = ((2 * np.arange(height) + 1) / height - 1)[:, None]
    place[..., 2] = luma * 2 - 1
    found = F.grid_sample(
        torch.from_numpy(total)[None],
        torch.from_numpy(place)[None, None],
        padding_mode="border",
        align_corners=False,
    )[0, :, 0].numpy()
    filled = (found[:2] / np.maximum(found[2], 1e-12)).transpose(1, 2, 0)
    return chroma + (filled - chroma) * (1 - certain)[..., None]


def _blur(maps: Array, axis: int, step: int) -> Array:
    """(1 2 1)/4 of samples `step` apart."""
    out = 2 * maps
    size = maps.shape[axis]
    if step < size:
        near, far = ([slice(None)] * maps.ndim for _ in range(2))
        near[axis], far[axis] = slice(step, None), slice(None, size - step)
        out[tuple(near)] += maps[tuple(far)]
        out[tuple(far)] += maps[tuple(near)]
    return out * np.float32(0.25)
