"""Draws docs/example.jpg, the sample photo without and with colour: `python -m docs.figures.example`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from seada_core.pipeline import Colorizer

ROOT = Path(__file__).resolve().parents[2]
WIDTH, GAP = 600, 8  # of each picture, px


def main() -> int:
    photo = Image.open(ROOT / "samples" / "photo.jpg").convert("L")
    result = Colorizer.from_pretrained("mini")(photo)
    height = round(photo.height * WIDTH / photo.width)
    sheet = Image.new("RGB", (2 * WIDTH + GAP, height), "white")
    for x, picture in ((0, photo), (WIDTH + GAP, result)):
        sheet.paste(picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS), (x, 0))
    sheet.save(ROOT / "docs" / "example.jpg", quality=88)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
