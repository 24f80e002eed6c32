"""Colour hints for points and regions, from clicks, words, reference pictures and palettes."""

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from ..files.hint_format import Hint, Stroke
    from .propagation import propagate
    from .superpixels import quantize, slic

__all__ = ["Hint", "Stroke", "propagate", "quantize", "slic"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Hint": "..files.hint_format",
        "Stroke": "..files.hint_format",
        "propagate": ".propagation",
        "quantize": ".superpixels",
        "slic": ".superpixels",
    },
)
