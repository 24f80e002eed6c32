"""A frame's planes: its luminance as the model sees it, and the chroma planes that go with it.

A film's luminance plane is never changed: it is the result's, value by value. Only chroma planes are made, in the
film's own colour matrix, range, depth and subsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.merging import merge_chroma
from .motion import Array, opencv

Plane = np.ndarray[Any, np.dtype[np.unsignedinteger]]

MATRICES = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}  # Kr, Kb


@dataclass(frozen=True)
class Layout:
    """How a film stores colour: its matrix, whether it has the full range, bits, and pixels per chroma sample."""

    matrix: str = "bt709"
    full: bool = False
    bits: int = 8
    across: int = 2
    down: int = 2

    @property
    def format(self) -> str:
        """FFmpeg's name of the pixel format."""
        sampling = {(2, 2): "420", (2, 1): "422", (1, 1): "444"}[self.across, self.down]
        return f"yuv{sampling}p" + ("10le" if self.bits == 10 else "")

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        return np.uint8 if self.bits == 8 else np.uint16

    def _range(self) -> tuple[float, float, float]:
        """Code values of black, of the span from black to white, and of chroma from -0.5 to 0.5."""
        scale = 2 ** (self.bits - 8)
        return (
            (0, 255 * scale + scale - 1, 255 * scale + scale - 1)
            if self.full
            else (16 * scale, 219 * scale, 224 * scale)
        )

    def luminance(self, plane: Plane, size: tuple[int, int]) -> Array:
        """A luminance plane (H, W) at another size, in [0, 1]; as an average where it is smaller."""
        black, span, _ = self._range()
        if plane.shape != size:
            smaller = size[0] <= plane.shape[0] and size[1] <= plane.shape[1]
            cv2 = opencv()
            method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
            small = cv2.resize(plane.astype(np.float32) if not smaller else plane, size[::-1], interpolation=method)
        else:
            small = plane
        return np.clip((small.astype(np.float32) - black) / span, 0, 1)

    def chroma_planes(self, plane: Plane, chroma: Tensor) -> tuple[Plane, Plane]:
        """The planes of chroma (1, 2, h, w) for a luminance plane: upsampled along its edges, within RGB's gamut."""
        size = -(-plane.shape[0] // self.down), -(-plane.shape[1] // self.across)
        black, span, width = self._range()
        luma = torch.from_numpy(plane.astype(np.float32))[None, None]
        if (self.down, self.across) != (1, 1):
            luma = F.avg_pool2d(luma, (self.down, self.across), ceil_mode=True, count_include_pad=False)
        assert tuple(luma.shape[-2:]) == size
        red, green, blue = merge_chroma(chroma, (luma - black) / span)[0]
        kr, kb = MATRICES[self.matrix]
        luminance = kr * red + (1 - kr - kb) * green + kb * blue
        middle, top = 128 << (self.bits - 8), (1 << self.bits) - 1
        planes = []
        for channel, share in ((blue, kb), (red, kr)):
            codes = (channel - luminance) / (2 * (1 - share)) * width + middle
            planes.append(codes.round().clamp(0, top).numpy().astype(self.dtype))
        return planes[0], planes[1]
