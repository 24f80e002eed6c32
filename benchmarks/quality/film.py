"""Steadiness and accuracy of a film's colours, compared with the truth and with frame by frame.

    python -m benchmarks.quality.film --data FOLDER [--model FOLDER] [--spacing 8] [--calibrate] [--strips FOLDER]

FOLDER has a folder of numbered colour frames for every clip. Columns are: warping error along the truth's motion and
colour distribution consistency as shares of the truth's own, PSNR over frame by frame, and colourfulness as a share of
frame by frame's; `--drift` adds how far the colours of a still thing move in 300 frames with grain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import Table
from seada_core.color.spaces import luminance, rgb_to_lab
from seada_core.evaluate.clips import Measured, frame_by_frame, in_steady_colors, mean, read_clip
from seada_core.film.steady import SPACING
from seada_core.pipeline import Colorizer

GRAIN = 0.02  # standard deviation of the noise in "truth with noise" and in the still thing
STILL = 300  # frames of the still thing
SHOWN = 8  # frames of a strip


def row(measured: Measured, film: list[Tensor], single: list[Tensor]) -> list[float]:
    """The figures of a film in steady colours, and beside those of the same film frame by frame."""
    ours, other = measured.figures(film), measured.figures(single)
    shares = [ours["warping"], ours["cdc"], other["warping"], other["cdc"]]
    return [*shares, ours["psnr"] - other["psnr"], ours["colorfulness"] / other["colorfulness"]]


def shares(measured: Measured, film: list[Tensor]) -> list[float]:
    """Warping error and CDC alone."""
    figures = measured.figures(film)
    return [figures["warping"], figures["cdc"]]


def drift(colorizer: Colorizer, gray: Tensor, spacing: int) -> float:
    """How far the mean colour of 16 × 16 cells moves from the first second's in `STILL` frames of a still thing with
    grain: the 95th percentile over cells and frames, in (a*, b*)."""
    generator = torch.Generator().manual_seed(0)
    noisy = [(gray + GRAIN * torch.randn(gray.shape, generator=generator)).clamp(0, 1) for _ in range(STILL)]
    cells = [
        torch.nn.functional.avg_pool2d(rgb_to_lab(frame)[1:][None], 16)[0]
        for frame in in_steady_colors(colorizer, noisy, spacing=spacing)
    ]
    start = torch.stack(cells[:24]).mean(0)
    return torch.stack([torch.linalg.vector_norm(frame - start, dim=0) for frame in cells[24:]]).quantile(0.95).item()


def strip(path: Path, rows: Sequence[Sequence[Tensor]]) -> None:
    """A JPEG of `SHOWN` frames a row, evenly spaced."""
    chosen = np.linspace(0, len(rows[0]) - 1, SHOWN).round().astype(int)
    picture = torch.cat([torch.cat([row[i][:, ::2, ::2] for i in chosen], -1) for row in rows], -2)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    image.save(path, quality=85)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.film", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of clips, which are folders of frames")
    parser.add_argument("--clips", nargs="+", help="names of clips (default: all)")
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files')
    parser.add_argument("--spacing", type=int, default=SPACING, help="frames from key to key")
    parser.add_argument("--calibrate", action="store_true", help="add rows for the truth with noise and for grey")
    parser.add_argument("--drift", action="store_true", help="add a row for a still thing")
    parser.add_argument("--strips", type=Path, help="write NAME.jpg: frame by frame above, steady below")
    options = parser.parse_args(arguments)

    colorizer = Colorizer.from_pretrained(options.model)
    folders = sorted(f for f in options.data.iterdir() if f.is_dir() and (not options.clips or f.name in options.clips))
    columns = [
        "warping error, of truth's",
        "CDC, of truth's",
        "the same frame by frame",
        "CDC",
        "PSNR over frame by frame, dB",
        "colourfulness, of frame by frame's",
    ]
    table = Table(f"film-{options.data.name}", f"{len(folders)} clips, keys every {options.spacing} frames", columns)
    rows, calibration = [], {"truth with noise": [], "grey": []}
    gray = None
    for folder in folders:
        truth = read_clip(folder)
        grays = [luminance(frame) for frame in truth]
        gray = grays[0] if gray is None else gray
        measured = Measured(truth)
        single, together = frame_by_frame(colorizer, grays), in_steady_colors(colorizer, grays, spacing=options.spacing)
        rows.append(row(measured, together, single))
        table.add(folder.name, *rows[-1])
        if options.strips:
            strip(options.strips / f"{folder.name}.jpg", (single, together))
        if options.calibrate:
            generator = torch.Generator().manual_seed(0)
            noisy = [(f + GRAIN * torch.randn(f.shape, generator=generator)).clamp(0, 1) for f in truth]
            calibration["truth with noise"].append(shares(measured, noisy))
            calibration["grey"].append(shares(measured, [g.expand(3, -1, -1) for g in grays]))
    table.add("mean", *(mean(column) for column in zip(*rows)))
    for name, found in calibration.items():
        if found:
            table.add(name, *(mean(column) for column in zip(*found)))
    if options.drift and gray is not None:
        table.add(f"still thing over {STILL} frames, in (a*, b*)", drift(colorizer, gray, options.spacing))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
