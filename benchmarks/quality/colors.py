"""Accuracy and colourfulness of a model, compared with the truth, coarse truths, wrong colours and grey.

    python -m benchmarks.quality.colors --data val-001.tar [--model FOLDER] [--size 192] [--saturation 1.2]

The colour distance (`seada_core.evaluate.color_distance`) with a 95 % interval, PSNR over leaving the photo grey, and
colourfulness as a share of the truth's, through the whole pipeline with the model's own captions. `--calibrate` adds
reference rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import Table
from benchmarks.quality.shard import read_shard
from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from seada_core.evaluate import metrics
from seada_core.evaluate.color_distance import Networks, coarse, distance, small
from seada_core.pipeline import Colorizer


def _chroma(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def apply(rgb: Tensor) -> Tensor:
        y, chroma = rgb_to_ycbcr(rgb).split([1, 2], dim=1)
        return ycbcr_to_rgb(torch.cat([y, change(chroma)], dim=1)).clamp(0, 1)

    return apply


CALIBRATION: dict[str, Callable[[Tensor], Tensor]] = {
    "truth": lambda rgb: rgb,
    "truth, chroma of 36 cells": lambda rgb: coarse(rgb, 36),
    "truth, chroma of 9 cells": lambda rgb: coarse(rgb, 9),
    "truth, 70 % of its chroma": _chroma(lambda c: 0.7 * c),
    "truth, one mean colour a picture": _chroma(lambda c: c.mean((2, 3), keepdim=True).expand_as(c)),
    "sepia": _chroma(lambda c: torch.tensor([-0.06, 0.04]).view(1, 2, 1, 1).expand_as(c)),
    "truth, hues opposite": _chroma(lambda c: -c),
}


class Figures:
    """One row's figures, collected picture by picture."""

    def __init__(self, networks: Networks):
        self.networks = networks
        self.features: list[list[Tensor]] = []
        self.psnr: list[float] = []
        self.colorfulness: list[float] = []

    def add(self, rgb: Tensor, truth: Tensor) -> None:
        """A colouring and its truth, (1, 3, H, W)."""
        self.features.append(self.networks.features(rgb))
        self.psnr.append(metrics.psnr(rgb, truth).item())
        self.colorfulness.append(metrics.colorfulness(rgb).item())

    def joined(self) -> list[Tensor]:
        return [torch.cat(maps) for maps in zip(*self.features)]

    def row(self, reference: Figures, truth: Figures, gray: Figures) -> tuple[float, ...]:
        found = distance(self.joined(), reference.joined(), gray.joined())
        over = (torch.tensor(self.psnr) - torch.tensor(gray.psnr)).mean().item()
        share = sum(self.colorfulness) / sum(truth.colorfulness)
        return tuple(round(v, 3) for v in (found.value, found.low, found.high, *found.by_network, over, share))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.colors", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="validation shard")
    parser.add_argument("--every", type=int, default=1, help="use every n-th picture")
    parser.add_argument("--first", type=int, default=0, help="index of the first picture")
    parser.add_argument("--model", nargs="+", default=["mini"], help='"mini" or folders of part files')
    parser.add_argument("--size", type=int, nargs="+", default=[0], help="short sides, px; 0: the model's own")
    parser.add_argument("--saturation", type=float, nargs="+", default=[0.0], help="factors; 0: the model's own")
    parser.add_argument("--calibrate", action="store_true", help="add rows for the truth, wrong colours and grey")
    options = parser.parse_args(arguments)

    networks = Networks()
    photos = [p.truth[None] for i, p in enumerate(read_shard(options.data)) if i % options.every == options.first]
    reference, truth, gray = Figures(networks), Figures(networks), Figures(networks)
    rows = {name: Figures(networks) for name in (CALIBRATION if options.calibrate else ())}
    for photo in photos:
        reference.add(coarse(small(photo)), small(photo))
        truth.add(photo, photo)
        gray.add(luminance(photo).expand_as(photo), photo)
        for name in rows:
            rows[name].add(CALIBRATION[name](photo), photo)
    columns = [
        "distance",
        "95 % from",
        "to",
        "by Lite1",
        "by Lite2",
        "PSNR over grey's, dB",
        "colourfulness, of truth's",
    ]
    table = Table(
        f"colors-{options.data.stem}", f"{len(photos)} pictures of {options.data.name}, own captions", columns
    )
    for name, figures in rows.items():
        table.add(name, *figures.row(reference, truth, gray))
    if options.calibrate:
        table.add("grey", *gray.row(reference, truth, gray))
    for model in options.model:
        for name, figures in colored(model, photos, options.size, options.saturation, networks):
            table.add(name, *figures.row(reference, truth, gray))
    return 0


def colored(
    model: str, photos: list[Tensor], sizes: list[int], saturations: list[float], networks: Networks
) -> Iterator[tuple[str, Figures]]:
    """(name, figures) of a model at each size and saturation; saturations share a sampling."""
    colorizer = Colorizer.from_pretrained(model)
    own = colorizer.preset.sampling
    for size in (size or own.size for size in sizes):
        figures = {saturation or own.saturation: Figures(networks) for saturation in saturations}
        for photo in photos:
            gray = luminance(photo)
            chroma = colorizer.chroma(gray, size=size, saturation=1.0)
            for saturation, row in figures.items():
                row.add((merge_chroma(saturation * chroma, gray) * 255).round() / 255, photo)
        for saturation, row in figures.items():
            yield f"{Path(model).name}, {size} px, {saturation:g}", row


if __name__ == "__main__":
    raise SystemExit(main())
