"""Draws what the registry shows: `python -m docs.figures.registry` writes docs/icon.png and docs/banner.jpg.

The sample photo, grey on the left, in the embedded model's colours on the right, with a soft transition.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from seada_core.pipeline import Colorizer

ROOT = Path(__file__).resolve().parents[2]
ICON, BANNER = 400, (1260, 540)  # px
CORNER = 80  # radius of the icon's corners, px
CUP = (150, 10, 530, 390)  # left, top, right, bottom of the icon's part of the sample, px
MIDDLE, WIDTH = 0.45, 0.12  # of the transition, as fractions of the width


def faded(gray: Image.Image, colored: Image.Image) -> Image.Image:
    """The grey picture that becomes the coloured one from left to right."""
    across = np.clip((np.linspace(0, 1, gray.width) - MIDDLE) / WIDTH + 0.5, 0, 1)
    mask = Image.fromarray(np.tile((across * 255).astype(np.uint8), (gray.height, 1)))
    return Image.composite(colored, gray.convert("RGB"), mask)


def main() -> int:
    photo = Image.open(ROOT / "samples" / "photo.jpg").convert("L")
    colored = Colorizer.from_pretrained("mini")(photo)
    icon = faded(*(one.crop(CUP).resize((ICON, ICON), Image.Resampling.LANCZOS) for one in (photo, colored)))
    corners = Image.new("L", (ICON, ICON))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, ICON - 1, ICON - 1), CORNER, fill=255)
    icon.putalpha(corners)
    icon.save(ROOT / "docs" / "icon.png", optimize=True)
    height = round(photo.width * BANNER[1] / BANNER[0])
    top = (photo.height - height) // 2
    box = (0, top, photo.width, top + height)
    banner = faded(*(one.crop(box).resize(BANNER, Image.Resampling.LANCZOS) for one in (photo, colored)))
    banner.save(ROOT / "docs" / "banner.jpg", quality=88)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
