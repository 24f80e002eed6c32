"""Dense motion between frames of a film, with a confidence for every pixel.

Optical flow is OpenCV's DIS (Kroeger et al. 2016), forward and backward. A vector is trusted where going there and back
ends where it began (Sundaram et al. 2010), and where the luminance at both ends is alike.

Frames are luminance (h, w), float32 in [0, 1], at the size at which the model works.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

RETURN = 0.5, 0.01  # px² by which there-and-back may miss, and the share of the vectors' squared lengths added to it
FAST, FINE = 1, 2  # DIS's presets; FAST at half of a frame's size rather than a quarter, where small things are lost
LIKENESS = 0.1  # difference of luminance at which confidence is halved

Array = np.ndarray[Any, np.dtype[np.float32]]


def opencv() -> Any:
    """The module cv2.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError("films need OpenCV for their motion: pip install opencv-python-headless") from error
    return cv2


class Motion:
    """Where the pixels of one frame are in another: `flow` (h, w, 2) in (x, y) px."""

    def __init__(self, a: Array, b: Array, flow: Array, back: Array):
        self.flow = flow
        self._ends = a, b, back

    @cached_property
    def confidence(self) -> Array:
        """(h, w) in [0, 1]: how certainly a pixel of this frame is in the other one."""
        (a, b, back), flow = self._ends, self.flow
        back = sample(back, flow)
        allowed = RETURN[0] + RETURN[1] * (_squares(flow) + _squares(back))
        miss = _squares(flow + back) / allowed
        height, width = a.shape
        x, y = _ends(flow)
        inside = (x > -1) & (x < width) & (y > -1) & (y < height)
        return inside * likeness(a, sample(b, flow)) / (1 + miss * miss)

    def fetch(self, maps: Array) -> Array:
        """Maps (h, w) or (h, w, c) of the other frame, moved to this one."""
        return sample(maps, self.flow)


def sample(maps: Array, flow: Array) -> Array:
    """Maps (h, w) or (h, w, c) at each pixel's position plus `flow`, bilinear; beyond the edges the edges go on."""
    cv2 = opencv()
    x, y = _ends(flow)
    return cv2.remap(maps, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _squares(vectors: Array) -> Array:
    x, y = vectors[..., 0], vectors[..., 1]
    return x * x + y * y


def _ends(flow: Array) -> tuple[Array, Array]:
    height, width = flow.shape[:2]
    return flow[..., 0] + np.arange(width, dtype=np.float32), flow[..., 1] + np.arange(height, dtype=np.float32)[
        :, None
    ]


def motions(
    a: Array,
    b: Array,
    through: tuple[tuple[Motion, Motion], tuple[Motion, Motion]] | None = None,
    quality: int = FAST,
    start: tuple[Array, Array] | None = None,
) -> tuple[Motion, Motion]:
    """The motions from `a` to `b` and from `b` to `a`.

    Args:
        through: the motions of `a` to a frame between the two and back, and of that frame to `b` and back: a start for
            the search, without which it finds no motion that is longer than things are large.
        quality: `FAST` or `FINE`.
        start: the same as vectors, from `a` to `b` and back, where they are known otherwise.
    Raises:
        ImportError: OpenCV is not installed.
    """
    ab, ba = start or (None, None)
    if through is not None:
        (there, back), (on, home) = through
        ab, ba = there.flow + there.fetch(on.flow), home.flow + home.fetch(back.flow)
    bytes_a, bytes_b = ((x * 255 + 0.5).astype(np.uint8) for x in (a, b))
    ab, ba = _flow(bytes_a, bytes_b, ab, quality), _flow(bytes_b, bytes_a, ba, quality)
    return Motion(a, b, ab, ba), Motion(b, a, ba, ab)


def _flow(a: Any, b: Any, start: Array | None, quality: int) -> Array:
    # an object for this pair alone: with a start, results depend on what it was used for before
    dis = opencv().DISOpticalFlow_create(quality)
    if quality == FAST:
        dis.setFinestScale(1)
        dis.setPatchStride(5)
        dis.setGradientDescentIterations(12)
        dis.setVariationalRefinementIterations(2)
    return dis.calc(a, b, start)


def likeness(a: Array, b: Array) -> Array:
    """1 where two luminances (h, w) are equal, 0.5 where they differ by `LIKENESS`, over 3 x 3 px."""
    difference = opencv().blur(a - b, (3, 3)) / LIKENESS
    difference *= difference
    return 1 / (1 + difference * difference)
