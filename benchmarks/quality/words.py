"""Whether a colour word colours its thing and nothing else: `python -m benchmarks.quality.words --data val-000.tar`.

Ten colour words on five photos with one clear thing, whose outlines are drawn by hand. "a red rooster" is compared with
"a rooster": the mean chroma of the thing should have the word's hue, within 30 degrees, and the mean chroma of the rest
should move less than a third as far as the thing's.

`--names 40`: how often the thing that a photo's label names is found, and how often those of the other photos' labels
are, some of which may be present too; one photo for each of 40 labels that are classes of the model's classifier.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks import Table
from benchmarks.quality.shard import read_shard
from seada_core.color.spaces import luminance, rgb_to_ycbcr
from seada_core.evaluate.sources import gray_of, to_8bit
from seada_core.files.hint_format import parse_color
from seada_core.hints.color_phrases import COLORS, without_colors
from seada_core.models.classifier import class_words
from seada_core.pipeline import Colorizer
from seada_core.steering import find_regions, word_hints

HUE_TOLERANCE = 30  # degrees between a word's hue and the mean hue of its thing
WORDS = ("red", "orange", "brown", "yellow", "green", "turquoise", "blue", "purple", "magenta", "pink")
# outlines (x, y), px; see `outline` for the two without
THINGS = {
    "val-000271": (
        "rooster",
        [
            109,
            13,
            118,
            4,
            141,
            9,
            144,
            22,
            145,
            33,
            134,
            42,
            133,
            67,
            136,
            85,
            129,
            112,
            118,
            127,
            114,
            147,
            96,
            170,
            89,
        ]
        + [192, 83, 192, 83, 156, 58, 143, 40, 125, 18, 112, 7, 80, 27, 71, 49, 78, 60, 92, 83, 85, 85, 62, 94, 45, 109]
        + [27],
    ),
    "val-000039": (
        "truck",
        [16, 45, 69, 35, 112, 39, 134, 42, 176, 49, 192, 67, 184, 134, 181, 141, 165, 156, 152, 158, 116, 174, 96, 172]
        + [89, 147, 67, 145, 31, 145, 16, 134, 7, 116, 7, 76, 16, 71],
    ),
    "val-000004": (
        "parachute",
        [57, 117, 60, 89, 67, 74, 80, 67, 125, 71, 143, 87, 153, 96, 150, 123, 142, 118, 129, 103, 107, 95, 85, 93, 67]
        + [105],
    ),
    "val-000237": ("sunflower", None),
    "val-000043": ("umbrella", None),
}


def outline(rgb: Tensor, thing: str, polygon: list[float] | None) -> Tensor:
    """The mask (H, W), bool, of the thing in a picture (3, H, W)."""
    height, width = rgb.shape[-2:]
    if thing == "umbrella":  # on white
        return luminance(rgb)[0] < 0.9
    image = Image.new("1", (width, height))
    if polygon is None:  # the sunflower: yellow petals around a dark disc
        ImageDraw.Draw(image).ellipse((55, 53, 145, 143), fill=1)
        return torch.tensor(np.asarray(image)) | (rgb_to_ycbcr(rgb)[1] < -0.12)
    ImageDraw.Draw(image).polygon(polygon, fill=1)
    return torch.tensor(np.asarray(image))


def mean_chroma(rgb: Tensor, where: Tensor) -> Tensor:
    """(2,) of a saved picture (1, 3, H, W)."""
    return rgb_to_ycbcr(to_8bit(rgb))[0, 1:, where].mean(1)


def by_words(colorizer: Colorizer, gray: Tensor, prompt: str, regions: str = "auto") -> Tensor:
    """Photos (B, 1, H, W) in colour (B, 3, H, W): the coloured things of the prompt as soft hints, the rest as text."""
    soft, found, _ = word_hints(colorizer, gray, prompt, regions)
    return colorizer(gray, prompt=without_colors(prompt, found), soft_hints=soft)


def labels_of(shard: Path, count: int) -> dict[str, str]:
    """Keys of the first pictures of `count` labels, spread evenly over those that are names of ImageNet's classes."""
    known = [set(names.lower().replace(",", " ").split()) for names in class_words()]
    first: dict[str, str] = {}
    with tarfile.open(shard) as tar:
        for name in tar.getnames():
            if name.endswith(".json"):
                label = (json.load(tar.extractfile(name)).get("label") or "").lower()
                if label and any(set(label.split()) <= words for words in known):
                    first.setdefault(label, name.removesuffix(".json"))
    labels = list(first)
    return {first[label]: label for label in labels[:: max(1, len(labels) // count)][:count]}


def print_names(colorizer: Colorizer, shard: Path, count: int, source: str) -> None:
    """How often labels' things are found, in their own photos and in those of the others."""
    labels = labels_of(shard, count)
    table = Table("words_found", f"things found of {count} labels", ["found", "of"])
    things, own, others = list(labels.values()), [], []
    for pair in read_shard(shard, labels):
        scores = find_regions(colorizer, gray_of(pair.truth)[None, :1], ", ".join(things), things, source, 0)
        found = (scores.amax((0, 2, 3)) > 0).tolist()
        for thing, yes in zip(things, found):
            (own if thing == labels[pair.key] else others).append(yes)
    table.add("in their own photos", sum(own), len(own))
    table.add("in the other photos, where some are too", sum(others), len(others))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--regions", default="auto", help="see word_hints")
    parser.add_argument("--names", type=int, metavar="N", help="only count how often things of N labels are found")
    parser.add_argument("--sheet", type=Path, help="write the pictures there")
    options = parser.parse_args(arguments)
    colorizer = Colorizer.from_pretrained(options.model)
    if options.names:
        print_names(colorizer, options.data, options.names, options.regions)
        return 0
    rows, met = [], []
    about = 'chroma of "a red barn" against "a barn": the thing and the rest'
    table = Table("words", about, ["hue off, degrees", "thing moved", "rest moved", "share"])
    for pair in read_shard(options.data, THINGS):
        thing, polygon = THINGS[pair.key]
        where, gray = outline(pair.truth, thing, polygon), gray_of(pair.truth)[None]
        plain = colorizer(gray, prompt=f"a {thing}")
        before = mean_chroma(plain, where), mean_chroma(plain, ~where)
        row = [pair.truth, plain[0]]
        for word in WORDS:
            result = by_words(colorizer, gray[:, :1], f"a {word} {thing}", options.regions)
            after = mean_chroma(result, where), mean_chroma(result, ~where)
            wanted = rgb_to_ycbcr(torch.tensor(parse_color(COLORS[word])).view(3, 1, 1))[1:].flatten()
            cosine = torch.cosine_similarity(after[0], wanted, dim=0).clamp(-1, 1)
            hue = math.degrees(math.acos(cosine))
            moved, rest = ((a - b).norm().item() for a, b in zip(after, before))
            met.append((hue <= HUE_TOLERANCE, rest < moved / 3))
            table.add(f"{word} {thing}", round(hue), moved, rest, rest / moved)
            row.append(result[0])
        rows.append(torch.cat(row, 2))
    hue, rest = (sum(column) for column in zip(*met))
    table.add(f"hue within {HUE_TOLERANCE} degrees: {hue} of {len(met)}", None, None, None, None)
    table.add(f"the rest moved less than a third as far: {rest} of {len(met)}", None, None, None, None)
    if options.sheet:
        sheet = (torch.cat(rows, 1).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(sheet).save(options.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
