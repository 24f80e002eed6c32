"""Steadiness and accuracy of a film's colours, compared with the truth and with frame by frame.

    python -m benchmarks.quality.film --data FOLDER [--model FOLDER] [--spacing 8] [--calibrate] [--strips FOLDER]

FOLDER has a folder of numbered colour frames for every clip. Columns are: warping error along the truth's motion and
colour distribution consistency as shares of the truth's own, PSNR over frame by frame, and colourfulness as a share of
frame by frame's; `--drift` adds how far the colours of a still thing move in 300 frames with grain.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import Table
from seada_core.color.merging import merge_chroma
from seada_core.color.sizes import diffusion_size, resize, size_of
from seada_core.color.spaces import luminance, rgb_to_lab
from seada_core.evaluate import metrics
from seada_core.evaluate.steadiness import color_distribution_consistency, truth_motion, warping_error
from seada_core.film.frame_folder import numbered
from seada_core.film.keys import KeyPainter
from seada_core.film.steady import SPACING, steady
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer

GRAIN = 0.02  # standard deviation of the noise in "truth with noise" and in the still thing
STILL = 300  # frames of the still thing
SHOWN = 8  # frames of a strip


def read_clip(folder: Path) -> list[Tensor]:
    """The frames of a clip, sRGB (3, H, W) in [0, 1]."""
    pictures = (np.asarray(Image.open(path).convert("RGB")) for path in numbered(folder))
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255 for picture in pictures]


def frame_by_frame(colorizer: Colorizer, grays: Sequence[Tensor]) -> list[Tensor]:
    """Each frame coloured as a photo, as saved."""
    return [rounded(merge_chroma(colorizer.chroma(gray[None])[0], gray)) for gray in grays]


def in_steady_colors(colorizer: Colorizer, grays: Sequence[Tensor], spacing: int) -> list[Tensor]:
    """The film in steady colours, as saved."""
    size = diffusion_size(size_of(grays[0]), colorizer.preset.sampling.size)
    small = ((number / 24, resize(gray[None], size)[0, 0].numpy()) for number, gray in enumerate(grays))
    painter = KeyPainter(colorizer, ColorizeOptions(), size_of(grays[0]))
    results = steady(small, painter, spacing)
    return [
        rounded(merge_chroma(torch.from_numpy(result.chroma).permute(2, 0, 1), gray))
        for gray, result in zip(grays, results)
    ]


def rounded(rgb: Tensor) -> Tensor:
    """A picture as saved to 8 bits."""
    return (rgb * 255).round().clamp(0, 255) / 255


class Figures:
    """A clip's truth, and the figures of its versions."""

    def __init__(self, truth: list[Tensor]):
        self.truth, self.motion = truth, truth_motion(truth)
        self.steadiness = self._steadiness(truth)

    def _steadiness(self, frames: list[Tensor]) -> tuple[float, float]:
        return warping_error(frames, self.motion), color_distribution_consistency(frames)

    def shares(self, frames: list[Tensor]) -> tuple[float, float]:
        """Warping error and CDC as shares of the truth's."""
        warping, consistency = self._steadiness(frames)
        return warping / self.steadiness[0], consistency / self.steadiness[1]

    def row(self, frames: list[Tensor], reference: list[Tensor] | None = None) -> list[float]:
        """All figures of a version; the last two beside those of `reference`."""
        if reference is None:
            return [*self.shares(frames)]
        psnr = [mean(metrics.psnr(a, b).item() for a, b in zip(version, self.truth)) for version in (frames, reference)]
        colors = [mean(metrics.colorfulness(f).item() for f in version) for version in (frames, reference)]
        return [*self.shares(frames), *self.shares(reference), psnr[0] - psnr[1], colors[0] / colors[1]]


def mean(values: object) -> float:
    return statistics.fmean(values)  # type: ignore[arg-type]


def drift(colorizer: Colorizer, gray: Tensor, spacing: int) -> float:
    """How far the mean colour of 16 × 16 cells moves from the first second's in `STILL` frames of a still thing with
    grain: the 95th percentile over cells and frames, in (a*, b*)."""
    generator = torch.Generator().manual_seed(0)
    noisy = [(gray + GRAIN * torch.randn(gray.shape, generator=generator)).clamp(0, 1) for _ in range(STILL)]
    cells = [
        torch.nn.functional.avg_pool2d(rgb_to_lab(frame)[1:][None], 16)[0]
        for frame in in_steady_colors(colorizer, noisy, spacing)
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
        figures = Figures(truth)
        single, together = frame_by_frame(colorizer, grays), in_steady_colors(colorizer, grays, options.spacing)
        rows.append(figures.row(together, single))
        table.add(folder.name, *rows[-1])
        if options.strips:
            strip(options.strips / f"{folder.name}.jpg", (single, together))
        if options.calibrate:
            generator = torch.Generator().manual_seed(0)
            noisy = [(f + GRAIN * torch.randn(f.shape, generator=generator)).clamp(0, 1) for f in truth]
            calibration["truth with noise"].append(figures.row(noisy))
            calibration["grey"].append(figures.row([g.expand(3, -1, -1) for g in grays]))
    table.add("mean", *(mean(column) for column in zip(*rows)))
    for name, found in calibration.items():
        if found:
            table.add(name, *(mean(column) for column in zip(*found)))
    if options.drift and gray is not None:
        table.add(f"still thing over {STILL} frames, in (a*, b*)", drift(colorizer, gray, options.spacing))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
