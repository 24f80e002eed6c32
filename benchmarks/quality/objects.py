"""Whether colours stay where they are put: `python -m benchmarks.quality.objects --data objects/`.

The folder has pictures (.jpg), the mask of one object in each (.png of the same name), and names.json with its noun.

Change is the distance in (a*, b*) between the photo coloured with hints and without, as a share of the change at the
click. Inside: its mean over the object; outside: its mean over what is at least `MARGIN` px from the object; IoU: of
the object and the places whose change is at least half. A click's error is the distance in (a*, b*) from its colour,
brought to the place's luminance and into the gamut, in the middle of the click. Calibration: a change that is exactly
the object's mask has 1, 0 and 1, and one of the whole picture 1, 1 and the object's share of the picture.
A lock is a hint that keeps the model's colour, at a random place that is at least `MARGIN` px from the object.

Words: IoU of the object and the region that is found for its noun, and how often nouns of other pictures are refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from benchmarks import Table
from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import luminance, rgb_to_lab, rgb_to_ycbcr
from seada_core.files.hint_format import KEEP, Hint, parse_color
from seada_core.pipeline import Colorizer
from seada_core.steering import word_hints

MARGIN = 9  # px around the object that count as neither inside nor outside
COLORS = ("#b03a3a", "#3a62b0", "#3f9a4a", "#b08a2e", "#8a3fa0", "#2e9a9a")
PLACES = 3  # clicks tried one at a time: the object's deepest point, then random ones
RADIUS = 0.005  # of a click, as a share of the picture's longer side
SAME = ({"dog", "camel", "horse"}, {"dancer", "surfer", "cyclist"}, {"car", "scooter"})  # too near to be called wrong


class Picture(NamedTuple):
    name: str
    noun: str
    gray: Tensor  # (1, 1, H, W)
    mask: np.ndarray  # (H, W), bool


def read(folder: Path) -> list[Picture]:
    pictures = []
    for name, noun in json.loads((folder / "names.json").read_text(encoding="utf-8")).items():
        rgb = torch.from_numpy(np.array(Image.open(folder / f"{name}.jpg").convert("RGB")))
        mask = np.array(Image.open(folder / f"{name}.png").convert("L")) > 127
        pictures.append(Picture(name, noun, luminance(rgb.movedim(-1, 0)[None].float() / 255), mask))
    return pictures


def places(mask: np.ndarray, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """(x, y) of the object's deepest point, and of random ones that are not at its border."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    rows, columns = np.nonzero(depth >= 0.3 * depth.max())
    chosen = generator.choice(len(rows), count - 1, replace=False)
    return [(int(x), int(y)), *((int(columns[i]), int(rows[i])) for i in chosen)]


def far_from(mask: np.ndarray) -> np.ndarray:
    """What is at least `MARGIN` px from a mask (H, W), bool."""
    return ndimage.distance_transform_edt(~mask) >= MARGIN


def ab(rgb: Tensor) -> Tensor:
    """(a*, b*) of a picture (1, 3, H, W), (2, H, W)."""
    return rgb_to_lab(rgb)[0, 1:]


def allowed(color: str, gray: Tensor) -> Tensor:
    """(a*, b*) of a colour at the luminance (1, 1, 1, 1) of a place."""
    chroma = rgb_to_ycbcr(torch.tensor(parse_color(color)).view(1, 3, 1, 1))[:, 1:]
    return ab(merge_chroma(chroma, gray))[:, 0, 0]


class Scores(NamedTuple):
    inside: float
    outside: float
    iou: float
    error: float


def score(plain: Tensor, hinted: Tensor, picture: Picture, hint: Hint) -> Scores:
    """Of a click on the object; plain, hinted: (2, H, W) in (a*, b*)."""
    x, y = int(hint.x), int(hint.y)
    change = (hinted - plain).norm(dim=0)
    share = (change / change[y, x].clamp_min(1)).clamp(0, 1).numpy()
    far = far_from(picture.mask)
    region = share >= 0.5
    iou = (region & picture.mask).sum() / (region | picture.mask).sum()
    wanted = allowed(hint.color, picture.gray[..., y : y + 1, x : x + 1])
    error = (hinted[:, y, x] - wanted).norm().item()
    return Scores(share[picture.mask].mean(), share[far].mean(), float(iou), error)


def click(colorizer: Colorizer, pictures: list[Picture], table: Table) -> None:
    """One click at a time, three of one colour, and these with a lock elsewhere."""
    generator, elsewhere = np.random.default_rng(0), np.random.default_rng(1)
    single, several, locked = [], [], []
    for index, picture in enumerate(pictures):
        plain = ab(colorizer(picture.gray))
        color = COLORS[index % len(COLORS)]
        where = places(picture.mask, PLACES, generator)
        radius = max(1.0, RADIUS * max(picture.mask.shape))
        hints = [Hint(x, y, color, radius=radius) for x, y in where]
        single += [score(plain, ab(colorizer(picture.gray, hints=[hint])), picture, hint) for hint in hints]
        several.append(score(plain, ab(colorizer(picture.gray, hints=hints)), picture, hints[0]))
        y, x = elsewhere.choice(np.argwhere(far_from(picture.mask)))
        lock = Hint(int(x), int(y), KEEP, radius=radius)
        locked.append(score(plain, ab(colorizer(picture.gray, hints=[*hints, lock])), picture, hints[0]))
        print(f"{picture.name}: {several[-1].iou:.2f}, with a lock {locked[-1].iou:.2f}", file=sys.stderr)
    rows = {"one click": single, f"{PLACES} clicks": several, f"{PLACES} clicks, one lock outside": locked}
    for name, scores in rows.items():
        inside, outside, iou, errors = zip(*scores)
        means = (statistics.fmean(values) for values in (inside, outside, iou))
        table.add(name, *(round(mean, 3) for mean in means), round(statistics.median(errors), 2), round(max(errors), 2))


def words(colorizer: Colorizer, pictures: list[Picture], table: Table) -> None:
    """The region of each noun, and the nouns of the other pictures."""
    ious, refused, tried = [], 0, 0
    nouns = sorted({picture.noun for picture in pictures})
    for picture in pictures:
        found, _, _ = word_hints(colorizer, picture.gray, f"a red {picture.noun}")
        if found is None:
            ious.append(0.0)
        else:
            region = F.interpolate(found[:, 2:], size=picture.mask.shape, mode="bilinear")[0, 0].numpy()
            region = region >= region.max() / 2
            ious.append(float((region & picture.mask).sum() / (region | picture.mask).sum()))
        print(f"{picture.name}, {picture.noun}: {ious[-1]:.2f}", file=sys.stderr)
        for noun in nouns:
            if noun != picture.noun and not any({noun, picture.noun} <= same for same in SAME):
                refused += word_hints(colorizer, picture.gray, f"a red {noun}")[0] is None
                tried += 1
    table.add("its noun", None, None, round(statistics.fmean(ious), 3), None, None)
    table.add(f"wrong nouns refused: {refused} of {tried}", None, None, round(refused / tried, 3), None, None)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of pictures, masks and names.json")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--skip", choices=("clicks", "words"), nargs="*", default=[])
    options = parser.parse_args(arguments)
    colorizer, pictures = Colorizer.from_pretrained(options.model), read(options.data)
    columns = ["inside", "outside", "IoU, or share", "error at the click: median", "worst"]
    table = Table("objects", f"{len(pictures)} pictures with one object each", columns)
    if "clicks" not in options.skip:
        click(colorizer, pictures, table)
    if "words" not in options.skip:
        words(colorizer, pictures, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
