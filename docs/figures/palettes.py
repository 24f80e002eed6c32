"""Draws docs/palettes.jpg: `python -m docs.figures.palettes --historical FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.palettes import load_gray
from seada_core.hints import palettes
from seada_core.pipeline import Colorizer

SHEET = {  # photo: the two schemes beside the automatic one
    "Sphinx": ("Prussian blue woodblock", "Evening sky"),
    "ReadingGirl": ("Dutch interior", "Delft kitchen"),
    "BuriedDustbowl": ("Snow and spruce", "Clapboard and shutters"),
    "EgyptRiver2": ("Nile journey", "Dutch seascape"),
    "MoreBikes": ("Autochrome garden", "October wood"),
    "Scotland1919": ("Heather and tweed", "Snow and spruce"),
}
TILE = 240


def sheet(historical: Path) -> Image.Image:
    """The photos of `SHEET` without a palette, with the automatic one, and with two others."""
    colorizer, schemes = Colorizer.from_pretrained("mini", "cpu"), palettes.load_schemes()
    font, rows = ImageFont.load_default(13), []
    for name, others in SHEET.items():
        image = Image.open(historical / f"{name}.jpg").convert("L")
        auto = palettes.retrieve(load_gray(historical / f"{name}.jpg"), schemes, colorizer.part("captioner"), 1)
        chosen = [auto[0][0], *(schemes[other] for other in others)]
        image.thumbnail((2 * TILE, 2 * TILE))
        row = [(image, "grey", ()), (colorizer(image), "no palette", ())]
        for scheme, label in zip(chosen, ("automatic: ", "", "")):
            colored = colorizer(image, palette=scheme.colors, palette_strength=1.0)
            row.append((colored, label + scheme.name, scheme.colors))
        rows.append(row)
    heights = [round(TILE * row[0][0].height / row[0][0].width) for row in rows]
    result = Image.new("RGB", (5 * (TILE + 4), sum(heights) + 32 * len(rows)), "white")
    draw, y = ImageDraw.Draw(result), 0
    for row, height in zip(rows, heights):
        for i, (image, label, colors) in enumerate(row):
            x = i * (TILE + 4)
            result.paste(image.convert("RGB").resize((TILE, height), Image.Resampling.LANCZOS), (x, y))
            for k, color in enumerate(colors):
                edges = [x + TILE * n // len(colors) for n in (k, k + 1)]
                draw.rectangle((edges[0], y + height, edges[1] - 1, y + height + 9), color)
            draw.text((x, y + height + 12), label, "black", font)
        y += height + 32
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--historical", type=Path, required=True, help="the folder of the photos")
    parser.add_argument("--out", type=Path, default=Path("docs/palettes.jpg"))
    options = parser.parse_args()
    sheet(options.historical).save(options.out, quality=82)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
