"""What captions and colour words change: `python -m benchmarks.quality.color_words --data val-001.tar [--every 4]`.

PSNR of a model with its own captions, with colour captions measured in the true photo (`train.color_captions`), as text
alone and as `colorize` takes them (what they name is looked for in the photo), and with these captions' colour words
exchanged, over PSNR without any text, with 95 % intervals (bootstrap over photos). For photos whose caption begins with
a thing of a colour, how far that word's exchange moves the colour of its area, and of the rest, both ways. And how far
the embeddings of grey captions are from those of colour captions before and after the adapter.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks import Table
from benchmarks.quality.words import by_words
from seada_core.color.spaces import luminance, rgb_to_lab
from seada_core.evaluate import metrics
from seada_core.evaluate.sources import to_tensor
from seada_core.evaluate.summary import bootstrap
from seada_core.pipeline import Colorizer
from seada_core.train.color_captions import ColorDescriber
from seada_core.train.sources import samples

# each hue's word in place of which
EXCHANGED = {
    "red": "blue", "maroon": "navy", "pink": "turquoise", "orange": "blue", "brown": "green", "tan": "blue",
    "beige": "blue", "yellow": "purple", "olive": "purple", "green": "red", "teal": "red", "turquoise": "pink",
    "blue": "orange", "navy": "maroon", "purple": "yellow", "magenta": "green",
}  # fmt: skip
_WORD = re.compile(rf"\b({'|'.join(EXCHANGED)})\b")


def exchanged(text: str, count: int = 0) -> str:
    """A caption with its hues exchanged, the first `count` of them (all with 0)."""
    return _WORD.sub(lambda match: EXCHANGED[match[1]], text, count=count)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval, by bootstrap over photos."""
    found = np.array(values)
    low, high = bootstrap(lambda drawn: float(drawn.mean()), found)
    return round(float(found.mean()), 3), round(low, 3), round(high, 3)


def photos(options: argparse.Namespace) -> Iterator[tuple[Tensor, str | None]]:
    """(truth (1, 3, H, W), label) of every n-th photo of the shard."""
    for number, (_, encoded, record) in enumerate(samples(str(options.data))):
        if number % options.every == 0:
            yield to_tensor(Image.open(io.BytesIO(encoded)))[None], record.get("label")


def moved(before: Tensor, after: Tensor, area: Tensor) -> tuple[float, float]:
    """Mean change of (a, b) between two colourings (1, 3, H, W), in CIE Lab units, in an area (h, w) and outside it."""
    mask = F.interpolate(area[None, None], before.shape[-2:], mode="bilinear")[0, 0]
    change = (rgb_to_lab(after) - rgb_to_lab(before))[0, 1:].norm(dim=0)
    return float((change * mask).sum() / mask.sum()), float((change * (1 - mask)).sum() / (1 - mask).sum())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.color_words", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="validation shard")
    parser.add_argument("--every", type=int, default=1, help="use every n-th picture")
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files')
    options = parser.parse_args(arguments)
    colorizer, describer = Colorizer.from_pretrained(options.model), ColorDescriber.with_package_weights()
    names = ("own caption", "colour caption", "colours exchanged", "colour caption, its things found")
    over: dict[str, list[float]] = {name: [] for name in names}
    ways = {
        "as text": lambda gray, text: colorizer(gray, prompt=text),
        "its thing found": partial(by_words, colorizer),
    }
    shifts: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    distances = []
    for truth, label in photos(options):
        gray = luminance(truth)
        own = colorizer.caption(gray)[0]
        found = describer.measure(truth, [label])[0]
        color = ", ".join([own, *found.phrases]) if own else ", ".join(found.phrases)
        texts = dict(zip(names, (own, color, exchanged(color))))
        colored = {name: colorizer(gray, prompt=text) for name, text in {"none": "", **texts}.items()}
        colored[names[3]] = by_words(colorizer, gray, color)
        plain = metrics.psnr(colored["none"], truth).item()
        for name in names:
            over[name].append(metrics.psnr(colored[name], truth).item() - plain)
        if found.subject is not None and _WORD.search(found.phrases[0]):
            text = ", ".join(found.phrases)
            for way, color_by in ways.items():
                pair = color_by(gray, text), color_by(gray, exchanged(text, 1))
                shifts[way].append(moved(*pair, found.subject))
        distances.append(embedding_distances(colorizer, own, color))
    stem = options.data.stem
    table = Table(f"color_words-{stem}", f"{len(over[names[0]])} photos of {stem}", ["mean", "95 % from", "to"])
    for name in names:
        table.add(f"PSNR over no text, dB: {name}", *interval(over[name]))
    for way, pairs in shifts.items():
        for what, values in zip(("its thing", "the rest"), zip(*pairs)):
            table.add(f"one colour word exchanged, {way}: {what} moves, Lab", *interval(values))
    before, after = zip(*distances)
    table.add("distance to the colour caption's embedding, before the adapter", *interval(before))
    table.add("distance to the colour caption's embedding, after the adapter", *interval(after))
    return 0


@torch.no_grad()
def embedding_distances(colorizer: Colorizer, gray: str, color: str) -> tuple[float, float]:
    """|e_g - e_c| and |e_r - e_c|, as a share of |e_c|, for a grey and a colour caption."""
    encoder = colorizer.part("semantic_encoder")
    (e_g, mask), (e_c, other) = encoder([gray]), encoder([color])
    real = (mask | other)[..., None]
    e_r = colorizer.part("semantic_adapter")(e_g)
    size = (e_c * real).norm()
    return float(((e_g - e_c) * real).norm() / size), float(((e_r - e_c) * real).norm() / size)


if __name__ == "__main__":
    sys.exit(main())
