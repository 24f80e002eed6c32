"""Grey of more than 8 bits: which value of a file is black, and which is white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_BITS, _PHOTOMETRIC, _FORMAT, _MAXIMUM = 258, 262, 339, 281  # tags of a TIFF
_SIGNED = 2
UNKNOWN = 1 / 16  # a range of which less is used is a guess


@dataclass(frozen=True)
class Scale:
    """What a file says of its values: `white` is the largest, None if it does not tell; `inverted`: white is zero."""

    white: int | None = None
    inverted: bool = False
    unsigned: bool = False  # of 32 bits, which Pillow reads as signed


def declared(image: Any) -> Scale:
    """The scale of an opened picture, not yet turned."""
    tags: Any = getattr(image, "tag_v2", {})
    bits, kind = (_first(tags.get(tag)) for tag in (_BITS, _FORMAT))
    inverted = tags.get(_PHOTOMETRIC) == 0 and (image.mode.startswith("I") or image.mode == "F")
    white = _first(tags.get(_MAXIMUM))
    if not white and image.mode.startswith("I;16"):
        white = 4095 if bits == 12 else 65535
    if not white and image.format == "PPM":
        white = 65535  # which Pillow scales to
    return Scale(white or None, inverted, unsigned=bits == 32 and kind != _SIGNED and image.mode == "I")


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def gray(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Values `(H, W)` as float32 in [0, 1].

    Where the file does not say which value is white: for floats 1, if most values are at most 1 (highlights above it
    are clipped); else the smallest of 255, 65535 and, for integers, the largest of 32 bits, that no value exceeds.
    Raises ValueError for values that are not finite or negative, and where all of this is a guess.
    """
    if not np.isfinite(values).all():
        raise ValueError("the picture holds values that are not finite (NaN or infinity)")
    if scale.unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    top = float(values.max())
    white = float(scale.white) if scale.white and top <= scale.white else _white(values, top)
    if float(values.min()) < 0 and (values < -0.01 * white).mean() > 0.01:
        raise ValueError("the picture holds negative values, whose black is not known; save it with 16 bits, unsigned")
    result = np.clip(values.astype(np.float32) / np.float32(white), 0, 1)
    return 1 - result if scale.inverted else result


def _white(values: np.ndarray, top: float) -> float:
    real = values.dtype.kind == "f"
    if real and (top <= 1 or np.median(values[values > 0]) <= 1):
        return 1
    largest = () if real else (np.iinfo(values.dtype).max,)
    white = next((float(span) for span in (255, 65535, *largest) if top <= span), None)
    if white is None or (white > 65535 and top < UNKNOWN * white):
        raise ValueError(
            f"the picture's largest value is {top:.6g}, and it does not say which is white; save it with 16 bits"
        )
    return white
