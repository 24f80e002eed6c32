"""PSNR of each hint method: `python -m benchmarks.quality.hint_protocol --data val-000.tar`.

The protocol `icolorit` of `python -m seada_core.evaluate` (224 px, 2x2 px averaged, iColoriT's own places) for each
method; `--pictures` are spread evenly over the shard.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import Table
from seada_core.choices import HINT_METHODS
from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.evaluate import hint_points, metrics, sources
from seada_core.evaluate.protocols import HINT_COUNTS, PROTOCOLS
from seada_core.hints.maps import CORRECTION_PRIOR, spread_hints
from seada_core.hints.propagation import propagate
from seada_core.pipeline import Colorizer

DEFAULT = "the model's default"
METHODS = {
    DEFAULT: [],
    "propagation without a model": None,
    "guidance alone": ["guidance"],
    "modulation alone": ["modulation"],
}
METHODS |= {"modulation and guidance": ["modulation", "guidance"]}
METHODS |= {"all together": list(HINT_METHODS)}
RIVALS = ("blended", "confidence not squared")  # other last steps than `apply_hints` for all together


def colored(colorizer: Colorizer, gray: Tensor, hints: Tensor, name: str) -> Tensor:
    """Grey pictures (B, 3, H, W) with hint maps (B, 3, H, W), coloured by a method of `METHODS` or `RIVALS`."""
    if name in RIVALS:
        before = colored(colorizer, gray, hints, "modulation and guidance")
        return merge_chroma(rival(rgb_to_ycbcr(before)[:, 1:], gray[:, :1], hints, name), gray[:, :1])
    method = METHODS[name]
    if method is None:
        spread = spread_hints(gray[:, :1], hints)
        return merge_chroma(spread[:, :2] * spread[:, 2:], gray[:, :1])
    return colorizer(gray, hints=hints if hints[:, 2].any() else (), hint_methods=method or None)


def rival(chroma: Tensor, gray: Tensor, hints: Tensor, name: str) -> Tensor:
    """Alternatives to `apply_hints`: the propagated chroma composited over the model's, or unsquared confidence."""
    if name == "blended":
        spread = spread_hints(gray, hints)
        return torch.lerp(chroma, spread[:, :2], spread[:, 2:])
    missing = torch.where(hints[:, 2:] > 0, hints[:, :2] - chroma, 0)
    correction, confidence = propagate(gray, torch.cat([missing, hints[:, 2:]], dim=1), prior=CORRECTION_PRIOR)
    return chroma + confidence * correction


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures or a webdataset shard")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pictures", type=int, default=100, help="how many, spread evenly over the shard")
    parser.add_argument("--counts", type=int, nargs="+", choices=HINT_COUNTS, default=HINT_COUNTS[:-1])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *RIVALS], default=list(METHODS))
    parser.add_argument("--batch", type=int, default=10)
    options = parser.parse_args(arguments)
    colorizer, protocol = Colorizer.from_pretrained(options.model), PROTOCOLS["icolorit"]
    entries = sources.choose(sources.find(options.data), protocol, None, None)
    places = hint_points.draw(len(entries), options.counts, protocol.size)
    chosen = range(0, len(entries), max(1, len(entries) // options.pictures))[: options.pictures]
    scores: dict[tuple[str, int], list[float]] = {}
    for start in range(0, len(chosen), options.batch):
        indices = chosen[start : start + options.batch]
        truth = torch.stack([sources.read_truth(entries[index], protocol)[0] for index in indices])
        gray = sources.gray_of(truth)
        for count in options.counts:
            hints = torch.stack([hint_points.reveal(t, places[count][i]) for t, i in zip(truth, indices)])
            for name in options.methods:
                result = sources.to_8bit(colored(colorizer, gray, hints, name))
                scores.setdefault((name, count), []).extend(metrics.psnr(result, truth).tolist())
        print(f"{start + len(indices)} of {len(chosen)} pictures", file=sys.stderr)
    table = {n: {k: sum(scores[n, k]) / len(scores[n, k]) for k in options.counts} for n in options.methods}
    about = f"PSNR in dB by the number of hints, {len(chosen)} pictures of {options.data.name}"
    printed = Table("hint_protocol", about, [str(count) for count in options.counts])
    for name, row in table.items():
        printed.add(name, *(round(row[count], 2) for count in options.counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
