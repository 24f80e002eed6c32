"""A contact sheet: labelled pictures in rows, such as a photo's variants."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

TILE = 384  # longest side of a picture, px
MARGIN = 8
LABEL = 24  # height of a label, px
MIN_WIDTH = 160  # room for a label under a very narrow picture, px


def thumbnail(image: Image.Image) -> Image.Image:
    """RGB of at most `TILE` pixels a side; mode F is grey in [0, 1]."""
    small = image.copy()
    small.thumbnail((TILE, TILE))
    if small.mode == "F":
        small = small.point(lambda v: v * 255 + 0.5).convert("L")
    return small.convert("RGB")


def contact_sheet(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Labelled pictures of one size in rows on white, as near to a square of tiles as they fill."""
    width = max(MIN_WIDTH, *(image.width for _, image in tiles)) + MARGIN
    height = max(image.height for _, image in tiles) + LABEL + MARGIN
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (label, image) in enumerate(tiles):
        x, y = MARGIN + i % columns * width, MARGIN + i // columns * height
        sheet.paste(image, (x, y))
        draw.text((x, y + image.height + 2), label, "black", font)
    return sheet
