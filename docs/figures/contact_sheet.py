"""A contact sheet as one JPEG: `python -m docs.figures.contact_sheet --data val-000.tar --historical FOLDER --out
sheet.jpg`.

Validation pictures as input, result, truth; historical photos, whose true colours are unknown, as input, result.
"""

from __future__ import annotations

import argparse
import random
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from seada_core.evaluate.sources import find

PHOTOS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
BACKGROUND, INK = (24, 24, 24), (230, 230, 230)
GAP, GROUP_GAP, HEADING = 2, 12, 28  # px between thumbnails of a group, between groups, height of a heading


def section(title: str, groups: Iterable[Sequence[Image.Image]], thumb: int, columns: int) -> Image.Image:
    """A headed grid of groups, `columns` groups a row, every picture fitted into `thumb`×`thumb` px.

    Raises ValueError if there is no group, or if groups differ in their number of pictures.
    """
    # Resized one by one: the full-size photos are never in memory together.
    groups = [[ImageOps.contain(p.convert("RGB"), (thumb, thumb), Image.Resampling.LANCZOS) for p in g] for g in groups]
    if not groups or len({len(group) for group in groups}) != 1:
        raise ValueError(f"{title!r} needs groups with one number of pictures, got {[len(g) for g in groups][:8]}")
    columns = min(columns, len(groups))
    width = len(groups[0]) * (thumb + GAP) - GAP + GROUP_GAP
    rows = -(-len(groups) // columns)
    sheet = Image.new(
        "RGB", (columns * width + GROUP_GAP, HEADING + rows * (thumb + GROUP_GAP) + GROUP_GAP), BACKGROUND
    )
    ImageDraw.Draw(sheet).text((GROUP_GAP, 8), title, INK, ImageFont.load_default(14))
    for index, group in enumerate(groups):
        row, column = divmod(index, columns)
        for place, picture in enumerate(group):
            x = GROUP_GAP + column * width + place * (thumb + GAP) + (thumb - picture.width) // 2
            y = HEADING + row * (thumb + GROUP_GAP) + (thumb - picture.height) // 2
            sheet.paste(picture, (x, y))
    return sheet


def stack(sections: Sequence[Image.Image]) -> Image.Image:
    """Sections, one below the other."""
    sheet = Image.new("RGB", (max(s.width for s in sections), sum(s.height for s in sections)), BACKGROUND)
    top = 0
    for part in sections:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def choose(path: Path, count: int, seed: int) -> Iterator[tuple[str, Image.Image]]:
    """`count` pictures of a shard, the same ones for a seed, with their keys, in the shard's order."""
    entries = find(path)
    chosen = sorted(random.Random(seed).sample(range(len(entries)), min(count, len(entries))))
    for index in chosen:
        yield entries[index].key, entries[index].load()


def photos_of(folder: Path) -> Iterator[Image.Image]:
    """The photos of a folder by name, upright."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOS)
    if not paths:
        raise ValueError(f"{folder} has no photos")
    for path in paths:
        with Image.open(path) as photo:
            yield ImageOps.exif_transpose(photo)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.figures.contact_sheet", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="webdataset shard of colour pictures")
    parser.add_argument("--count", type=positive, default=50, help="how many of them (default: 50)")
    parser.add_argument("--choice-seed", type=int, default=0, help="which of them (default: 0)")
    parser.add_argument("--historical", type=Path, help="folder of black-and-white photos")
    parser.add_argument("--outputs", type=Path, help="take the shard's results from this folder's PNGs, named by key")
    parser.add_argument("--thumb", type=positive, default=160, help="size of a thumbnail in px (default: 160)")
    parser.add_argument("--columns", type=positive, default=4, help="triplets a row (default: 4)")
    parser.add_argument("--quality", type=positive, default=88, help="of the JPEG (default: 88)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files (default: mini)')
    parser.add_argument("--device", help="cpu, cuda, ... (default: the Colorizer's choice)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="noise seed, the same for every picture (default: 0)")
    options = parser.parse_args(arguments)
    if not (options.data or options.historical):
        parser.error("give --data, --historical or both")

    try:
        colorizer = None
        if options.historical or not options.outputs:
            from seada_core.pipeline import Colorizer

            colorizer = Colorizer.from_pretrained(options.model, device=options.device)

        def colorize(gray: Image.Image) -> Image.Image:
            return colorizer(gray, steps=options.steps, guidance=options.guidance, seed=options.seed)

        def triplets() -> Iterator[tuple[Image.Image, ...]]:
            for key, truth in choose(options.data, options.count, options.choice_seed):
                gray = truth.convert("L")
                saved = options.outputs and options.outputs / f"{Path(key).name}.png"
                yield gray, Image.open(saved) if saved else colorize(gray), truth

        def couples() -> Iterator[tuple[Image.Image, ...]]:
            for photo in photos_of(options.historical):
                gray = photo.convert("L")
                yield gray, colorize(gray)

        sections = []
        if options.data:
            title = "Never seen in training: input, result, truth"
            sections.append(section(title, triplets(), options.thumb, options.columns))
        if options.historical:
            title = "Historical photos: input, result"
            sections.append(section(title, couples(), options.thumb, options.columns * 3 // 2))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        stack(sections).save(options.out, "JPEG", quality=options.quality, optimize=True)
    except (ValueError, OSError, ImportError, tarfile.TarError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
