"""What bringing skin to one tone changes: `python -m benchmarks.quality.skin --data val-001.tar`.

In the photos of a shard whose people show skin (by the part `people`, which sees the grey photo): the error of its
chroma, how far its colours are apart within a photo, and the PSNR of the whole photo, for the model's colours without
and with it, and for the true colours with it, which says what it costs where nothing was wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import Table
from benchmarks.quality.shard import read_shard
from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import luminance, rgb_to_ycbcr
from seada_core.evaluate.metrics import psnr
from seada_core.hints.people import PeopleFinder, people_finder
from seada_core.hints.skin import even_skin, find_skin, typical
from seada_core.pipeline import Colorizer

LEAST = 0.004  # share of a photo that is skin, from which it counts
GRAY = 0.02  # mean distance from grey up to which a photo counts as one without colours
WORSE = 0.05  # dB
METHODS = ("model's colours", "model's colours, skin in one tone", "true colours", "true colours, skin in one tone")


def measured(colorizer: Colorizer, finder: PeopleFinder, truth: Tensor) -> dict[str, tuple[float, ...]] | None:
    """For each of `METHODS` the mean squared error of skin's (Cb, Cr), its variance within the photo (1, 3, H, W), and
    the photo's PSNR; None for a photo without skin or colours."""
    gray, chroma = luminance(truth), rgb_to_ycbcr(truth)[:, 1:]
    skin = find_skin(finder, gray, torch.zeros_like(chroma))[:, :1]
    if (skin > 0.5).float().mean() < LEAST or chroma.abs().mean() < GRAY:
        return None
    shown = {"model's colours": colorizer(gray.expand(-1, 3, -1, -1), skin=0.0), "true colours": truth}
    shown["model's colours, skin in one tone"] = colorizer(gray.expand(-1, 3, -1, -1))
    evened = even_skin(chroma, gray, find_skin(finder, gray, chroma))
    shown["true colours, skin in one tone"] = merge_chroma(evened, gray)
    found = {}
    for name in METHODS:
        colors = rgb_to_ycbcr(shown[name])[:, 1:]
        error = ((colors - chroma).square().sum(1, keepdim=True) * skin).sum() / skin.sum()
        apart = colors - typical(gray)
        mean = (apart * skin).sum((2, 3), keepdim=True) / skin.sum()
        spread = ((apart - mean).square().sum(1, keepdim=True) * skin).sum() / skin.sum()
        found[name] = float(error), float(spread), float(psnr(shown[name], truth))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a webdataset shard of colour photos")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--limit", type=int, help="at most so many photos with people")
    options = parser.parse_args(arguments)
    colorizer = Colorizer.from_pretrained(options.model)
    finder = people_finder(colorizer.has, colorizer.part)
    if finder is None:
        parser.error(f"{options.model} has no part people, or no controller with a classifier")
    rows: list[dict[str, tuple[float, ...]]] = []
    for photo in read_shard(options.data):
        found = measured(colorizer, finder, photo.truth[None])
        if found is not None:
            rows.append(found)
        if len(rows) == options.limit:
            break
    if not rows:
        parser.error(f"no photo of {options.data} shows people's skin")
    table = Table(
        "skin",
        f"skin in {len(rows)} photos of {options.data.name}; root mean squares of (Cb, Cr), in 1/255",
        ["error of skin", "apart within a photo", "PSNR over the model's", "photos better; worse"],
    )
    before = torch.tensor([row[METHODS[0]] for row in rows], dtype=torch.float64)
    for name in METHODS:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        error, spread = (255 * values[:, :2].mean(0).sqrt()).tolist()
        gain = values[:, 2] - before[:, 2]
        if name.startswith("true"):
            table.add(name, round(error, 2), round(spread, 2), "", "")
        else:
            changed = f"{(gain > WORSE).double().mean():.0%}; {(gain < -WORSE).double().mean():.0%}"
            table.add(name, round(error, 2), round(spread, 2), f"{gain.mean():+.2f} dB", changed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
