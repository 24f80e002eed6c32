"""Colour spaces, working sizes, and merging chroma with luminance."""

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from .merging import merge
    from .spaces import lab_to_rgb, luminance, rgb_to_lab, rgb_to_ycbcr, ycbcr_to_rgb

__all__ = ["lab_to_rgb", "luminance", "merge", "rgb_to_lab", "rgb_to_ycbcr", "ycbcr_to_rgb"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "lab_to_rgb": ".spaces",
        "luminance": ".spaces",
        "merge": ".merging",
        "rgb_to_lab": ".spaces",
        "rgb_to_ycbcr": ".spaces",
        "ycbcr_to_rgb": ".spaces",
    },
)
