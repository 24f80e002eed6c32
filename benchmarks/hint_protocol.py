"""How much each colour hint helps: `python -m benchmarks.hint_protocol --data val-000.tar`.

The protocol of iColoriT (Yun et al. 2023): k points at uniformly random places tell the mean colour of 2x2 px of the
truth, and PSNR is taken over RGB at 255 of the saved picture. Seed 1234; the first k of a picture's 100 points are its
k hints. Pictures keep their own size.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.embedded_model import batches_of, gray_of, keys_of, read_shard, to_8bit
from seada_core import metrics
from seada_core.color import merge_chroma, rgb_to_ycbcr
from seada_core.hints import CORRECTION_PRIOR, propagate, spread_hints
from seada_core.pipeline import Colorizer
from seada_core.presets import HINT_METHODS

PATCH = 2
METHODS = {"propagation alone": None, "guidance alone": ["guidance"], "modulation alone": ["modulation"]}
METHODS |= {"modulation and guidance": ["modulation", "guidance"]}
METHODS |= {"all together": list(HINT_METHODS)}
RIVALS = ("blended", "confidence not squared")  # other last steps than `apply_hints` for all together


def reveal(rgb: Tensor, count: int, seed: int) -> Tensor:
    """Hint map (1, 3, H, W) of `count` patches of a picture (3, H, W); fewer are the first of more."""
    height, width = rgb.shape[-2:]
    rows, columns = height // PATCH, width // PATCH
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))[:count]
    mask = torch.zeros(rows * columns)
    mask[order] = 1
    mean = F.avg_pool2d(rgb_to_ycbcr(rgb)[None], PATCH)
    hints = torch.cat([mean[:, 1:], torch.ones_like(mean[:, :1])], 1) * mask.view(1, 1, rows, columns)
    hints = hints.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return F.pad(hints, (0, width - hints.shape[-1], 0, height - hints.shape[-2]))


def colored(colorizer: Colorizer, gray: Tensor, hints: Tensor, name: str) -> Tensor:
    """Grey pictures (B, 3, H, W) with hint maps (B, 3, H, W), coloured by a method of `METHODS` or `RIVALS`."""
    if name in RIVALS:
        before = colored(colorizer, gray, hints, "modulation and guidance")
        return merge_chroma(rival(rgb_to_ycbcr(before)[:, 1:], gray[:, :1], hints, name), gray[:, :1])
    method = METHODS[name]
    if method is None:
        spread = spread_hints(gray[:, :1], hints)
        return merge_chroma(spread[:, :2] * spread[:, 2:], gray[:, :1])
    return colorizer(gray, hints=hints if hints[:, 2].any() else (), hint_methods=method)


def rival(chroma: Tensor, gray: Tensor, hints: Tensor, name: str) -> Tensor:
    """What `apply_hints` might be: the propagated chroma over what is there, or its correction times the confidence."""
    if name == "blended":
        spread = spread_hints(gray, hints)
        return torch.lerp(chroma, spread[:, :2], spread[:, 2:])
    missing = torch.where(hints[:, 2:] > 0, hints[:, :2] - chroma, 0)
    correction, confidence = propagate(gray, torch.cat([missing, hints[:, 2:]], dim=1), prior=CORRECTION_PRIOR)
    return chroma + confidence * correction


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a webdataset shard of pictures")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pictures", type=int, default=100, help="how many, spread evenly over the shard")
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *RIVALS], default=list(METHODS))
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the table there, too")
    options = parser.parse_args(arguments)
    colorizer = Colorizer.from_pretrained(options.model)
    keys = keys_of(options.data)
    keys = set(keys[:: max(1, len(keys) // options.pictures)][: options.pictures])
    scores: dict[tuple[str, int], list[float]] = {}
    done = 0
    for batch in batches_of(read_shard(options.data, keys), options.batch):
        truth = torch.stack([pair.truth for pair in batch])
        gray = gray_of(truth)
        for count in options.counts:
            seeds = [1234 + done + i for i in range(len(batch))]
            hints = torch.cat([reveal(rgb, count, seed) for rgb, seed in zip(truth, seeds)])
            for name in options.methods:
                result = to_8bit(colored(colorizer, gray, hints, name))
                scores.setdefault((name, count), []).extend(metrics.psnr(result, truth).tolist())
        done += len(batch)
        print(f"{done} of {len(keys)} pictures", file=sys.stderr)
    table = {n: {k: sum(scores[n, k]) / len(scores[n, k]) for k in options.counts} for n in options.methods}
    print(f"PSNR@k in dB, {done} pictures")
    print("| hints | " + " | ".join(map(str, options.counts)) + " |")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{row[k]:.2f}" for k in options.counts) + " |")
    if options.json:
        options.json.write_text(json.dumps({"pictures": done, "psnr": table}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
