"""docs/steering.jpg: photos without and with clicks, locks, words, masks, a reference picture, a palette.

python -m docs.figures.steering --historical FOLDER --kodak FOLDER --objects FOLDER --out docs/steering.jpg
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import to_tensor

from docs.figures.contact_sheet import BACKGROUND, GROUP_GAP, INK, section
from seada_core import steering
from seada_core.files.hint_format import KEEP, Hint
from seada_core.hints import color_phrases
from seada_core.hints.masks import mask_hints
from seada_core.hints.palettes import load_schemes
from seada_core.pipeline import Colorizer

PHOTO = Path(__file__).resolve().parents[2] / "samples" / "photo.jpg"
SIDE = 600  # longest side of the coloured photo, px; clicks are given in pixels of the original
TILE, COLUMNS = 236, 3


@dataclass(frozen=True)
class Example:
    label: str
    photo: str  # a file's name without its suffix
    clicks: tuple[tuple[float, float, str, float], ...] = ()  # x, y, colour, radius
    words: str = ""
    mask: str = ""  # the colour of the thing whose mask, a PNG, lies beside the photo
    reference: str = ""
    palette: str = ""


EXAMPLES = (
    Example(
        "a green saucer: two clicks, locks on table and cup", "photo",
        ((130, 330, "#2f7a4a", 8), (420, 330, "#2f7a4a", 8), (540, 90, KEEP, 8), (60, 110, KEEP, 8), (40, 360, KEEP, 8),
         (560, 330, KEEP, 8), (120, 392, KEEP, 5), (480, 385, KEEP, 5), (250, 60, KEEP, 6), (260, 130, KEEP, 6)),
    ),
    Example(
        "a blue coat: two clicks, locks around", "DutchBabyCouple",
        ((330, 235, "#34598c", 6), (415, 235, "#34598c", 6), (175, 420, KEEP, 8), (175, 250, KEEP, 8),
         (385, 470, KEEP, 8), (370, 130, KEEP, 6), (60, 200, KEEP, 8)),
    ),
    Example(
        "caps: a click each, locks on wall and sky", "kodim03",
        ((70, 150, "#c83232", 8), (245, 250, "#e0b020", 8), (375, 265, "#3c8c50", 6), (460, 305, "#3c78c8", 5),
         (60, 400, KEEP, 8), (160, 330, KEEP, 8), (300, 420, KEEP, 8), (420, 420, KEEP, 8), (320, 70, KEEP, 8),
         (170, 80, KEEP, 8), (440, 170, KEEP, 8), (310, 330, KEEP, 5)),
    ),
    Example("a crimson dress: two clicks", "kodim18", ((285, 230, "#9c1c38", 6), (290, 400, "#9c1c38", 6))),
    Example(
        "sky, sea, skin: clicks", "1890Surfer",
        ((100, 20, "#a9c8e6", 6), (400, 30, "#a9c8e6", 6), (400, 250, "#7fa6a0", 5), (80, 250, "#7fa6a0", 5),
         (230, 150, "#a8704a", 3), (262, 197, "#8a5a34", 3)),
    ),
    Example("words: a red motorcycle", "kodim05", words="a red motorcycle"),
    Example("words: a yellow airplane", "kodim20", words="a yellow airplane"),
    Example("words: a turquoise cup", "photo", words="a turquoise cup"),
    Example("words: a pink sky", "Hemmingway", words="a pink sky"),
    Example("words: orange sky, blue sea", "EinsteinBeach", words="an orange sky, a blue sea"),
    Example("words: red trees", "MoreBikes", words="red trees"),
    Example("a mask: a red car", "car-roundabout-00", mask="#b81c22"),
    Example("a mask: a blue scooter", "scooter-black-00", mask="#2c62b4"),
    Example("reference: another beach", "kodim12", reference="kodim16"),
    Example("palette: Nile journey", "EgyptRiver2", palette="Nile journey"),
)  # fmt: skip


def find(name: str, folders: list[Path]) -> Path:
    """Raises FileNotFoundError."""
    if name == PHOTO.stem:
        return PHOTO
    for folder in folders:
        for path in sorted(folder.glob(f"{name}.*")):
            return path
    raise FileNotFoundError(f"no {name} in {' or '.join(map(str, folders))}")


def pair(colorizer: Colorizer, example: Example, folders: list[Path]) -> tuple[Image.Image, Image.Image]:
    """The photo coloured without steering, with the clicks drawn on it; and with steering."""
    photo = Image.open(find(example.photo, folders)).convert("L")
    scale = min(1.0, SIDE / max(photo.size))
    photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.LANCZOS)
    gray = to_tensor(photo)[None]
    caption = colorizer.caption(gray)[0]
    options: dict = {"prompt": caption}
    if example.clicks:
        options["hints"] = [Hint(x * scale, y * scale, color, r * scale) for x, y, color, r in example.clicks]
    if example.words:
        hints, phrases, _ = steering.word_hints(colorizer, gray, example.words)
        options |= {"soft_hints": hints, "prompt": color_phrases.without_colors(example.words, phrases)}
    if example.mask:
        mask = to_tensor(Image.open(find(example.photo, folders).with_suffix(".png")).convert("L").resize(photo.size))
        options["soft_hints"] = mask_hints(gray, (mask > 0).float(), [example.mask])
    if example.reference:
        reference = Image.open(find(example.reference, folders)).convert("RGB")
        options["soft_hints"] = steering.reference_hints(colorizer, gray, to_tensor(reference)[None])
    if example.palette:
        options |= {"palette": load_schemes()[example.palette].colors, "palette_strength": 1.0}
    plain, steered = colorizer(photo, prompt=caption), colorizer(photo, **options)
    draw = ImageDraw.Draw(plain)
    for hint in options.get("hints", ()):
        color = None if hint.color == KEEP else hint.color
        draw.ellipse((hint.x - 7, hint.y - 7, hint.x + 7, hint.y + 7), fill=color, outline="white", width=2)
    if example.reference:
        reference.thumbnail((plain.width // 3, plain.height // 3))
        plain.paste(reference, (0, plain.height - reference.height))
    return plain, steered


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--historical", type=Path, required=True)
    parser.add_argument("--kodak", type=Path, required=True)
    parser.add_argument("--objects", type=Path, required=True, help="pictures with masks of things")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    colorizer, folders = Colorizer.from_pretrained(options.model), [options.historical, options.kodak, options.objects]
    font = ImageFont.load_default(15)
    tiles = []
    for example in EXAMPLES:
        tile = section("", [pair(colorizer, example, folders)], TILE, 1)
        ImageDraw.Draw(tile).text((GROUP_GAP, 6), example.label, INK, font)
        tiles.append(tile)
        print(example.photo, example.label)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(tiles) // COLUMNS) * height), BACKGROUND)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * width, index // COLUMNS * height))
    sheet.save(options.out, quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())
