"""Draws docs/historical.jpg: photos in grey, and in the colours of several models, side by side.

`python -m docs.figures.versions --photos FOLDER --models EARLIER mini [--out docs/historical.jpg]`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from docs.figures.contact_sheet import section, stack
from seada_core.pipeline import Colorizer


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.figures.versions", description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of black-and-white photos")
    parser.add_argument("--models", nargs="+", default=["mini"], help='folders of part files, or "mini"')
    parser.add_argument("--thumb", type=int, default=220, help="size of a thumbnail in px (default: 220)")
    parser.add_argument("--columns", type=int, default=2, help="photos a row (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("docs/historical.jpg"))
    options = parser.parse_args(arguments)
    photos = [Image.open(path).convert("L") for path in sorted(options.photos.iterdir())]
    columns = [photos]
    for model in options.models:
        colorizer = Colorizer.from_pretrained(model)
        columns.append([colorizer(photo) for photo in photos])
    title = f"Input, then {' and '.join(Path(model).name for model in options.models)}"
    sheet = section(title, zip(*columns), options.thumb, options.columns)
    stack([sheet]).save(options.out, "JPEG", quality=86, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
