"""Evaluates films: clips of colour frames, in steady colours and frame by frame, beside the truth.

A clip is a folder of numbered frames. Films are sequences of frames (3, H, W), sRGB in [0, 1].
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..color.merging import merge_chroma
from ..color.sizes import diffusion_size, resize, size_of
from ..color.spaces import luminance
from ..errors import CommandError, one_line
from ..files import atomic, pictures
from ..files.picture import PictureError
from ..film.frame_folder import numbered
from ..film.keys import KeyPainter
from ..film.motion import opencv
from ..film.steady import SPACING, steady
from ..film.streams import FilmError
from ..options import ColorizeOptions
from ..pipeline import Colorizer
from . import metrics
from .options import EvaluateOptions
from .steadiness import color_distribution_consistency, truth_motion, warping_error

RATE = 24  # frames a second, for the reach of given colours alone
FIGURES = {
    "warping": "warping error, of truth's",
    "cdc": "CDC, of truth's",
    "psnr": "PSNR, dB",
    "colorfulness": "CF, of truth's",
}


def read_clip(folder: Path) -> list[Tensor]:
    """The frames of a clip. Raises FilmError or PictureError where there are none, or one cannot be read."""
    frames = (np.asarray(pictures.to_pil(pictures.read(path)).convert("RGB")) for path in numbered(folder))
    return [torch.from_numpy(frame.copy()).permute(2, 0, 1) / 255 for frame in frames]


def frame_by_frame(
    colorizer: Colorizer, grays: Sequence[Tensor], options: ColorizeOptions | None = None
) -> list[Tensor]:
    """Frames (1, H, W) coloured as photos, as saved."""
    options = options or ColorizeOptions()
    return [rounded(merge_chroma(colorizer.chroma(gray[None], options)[0].cpu(), gray)) for gray in grays]


def in_steady_colors(
    colorizer: Colorizer, grays: Sequence[Tensor], options: ColorizeOptions | None = None, spacing: int = SPACING
) -> list[Tensor]:
    """Frames (1, H, W) in steady colours, as saved."""
    options, size = options or ColorizeOptions(), size_of(grays[0])
    small = diffusion_size(size, options.resolved(colorizer.preset).size)
    lumas = ((number / RATE, resize(gray[None], small)[0, 0].numpy()) for number, gray in enumerate(grays))
    results = steady(lumas, KeyPainter(colorizer, options, size), spacing)
    chromas = (torch.from_numpy(result.chroma).permute(2, 0, 1) for result in results)
    return [rounded(merge_chroma(chroma, gray)) for gray, chroma in zip(grays, chromas)]


def rounded(rgb: Tensor) -> Tensor:
    """A picture as saved to 8 bits."""
    return (rgb * 255).round().clamp(0, 255) / 255


class Measured:
    """A true film, with which others are compared."""

    def __init__(self, truth: list[Tensor]):
        self.truth, self.motion = truth, truth_motion(truth)
        self.steadiness = self._steadiness(truth)
        self.colorfulness = mean(metrics.colorfulness(frame).item() for frame in truth)

    def _steadiness(self, frames: Sequence[Tensor]) -> tuple[float, float]:
        return warping_error(frames, self.motion), color_distribution_consistency(frames)

    def figures(self, frames: Sequence[Tensor]) -> dict[str, float]:
        """The `FIGURES` of a film. Raises ValueError where it has other frames than the truth."""
        if len(frames) != len(self.truth):
            raise ValueError(f"{len(frames)} frames, but the truth has {len(self.truth)}")
        warping, consistency = self._steadiness(frames)
        return {
            "warping": warping / self.steadiness[0],
            "cdc": consistency / self.steadiness[1],
            "psnr": mean(metrics.psnr(frame, truth).item() for frame, truth in zip(frames, self.truth)),
            "colorfulness": mean(metrics.colorfulness(frame).item() for frame in frames) / self.colorfulness,
        }


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def run(options: EvaluateOptions) -> int:
    """Evaluate the clips in a folder: print a table, and write `clips.json`. Returns the exit status.

    Raises:
        CommandError: no clip can be evaluated.
    """
    assert options.clips is not None
    try:
        opencv()
        folders = sorted(path for path in options.clips.iterdir() if path.is_dir())
    except (ImportError, OSError) as error:
        raise CommandError(one_line(error)) from None
    if not folders:
        raise CommandError(f"no clips in {options.clips}: expected a folder of numbered frames for each", 2)
    device = options.networks.device
    colorizer = None if options.model is None else Colorizer.from_pretrained(options.model, device)
    report: dict[str, dict[str, dict[str, float]]] = {}
    failed = 0
    for folder in folders[: options.limit]:
        try:
            truth = read_clip(folder)
            measured = Measured(truth)
            films = {name: read_clip(place / folder.name) for name, place in options.compare.items()}
            if colorizer is not None:
                grays = [luminance(frame) for frame in truth]
                films["steady"] = in_steady_colors(colorizer, grays, options.colorize)
                films["frame by frame"] = frame_by_frame(colorizer, grays, options.colorize)
            report[folder.name] = {name: measured.figures(frames) for name, frames in films.items()}
        except (FilmError, PictureError, ValueError) as error:
            print(f"error: {folder.name}: {one_line(error)}")
            failed += 1
    if not report:
        raise CommandError(f"none of the clips in {options.clips} could be evaluated")
    rows = {
        name: {key: mean(clip[name][key] for clip in report.values()) for key in FIGURES}
        for name in next(iter(report.values()))
    }
    text = json.dumps({"clips": report, "mean": rows, "made": options.made}, indent=1)
    options.out.mkdir(parents=True, exist_ok=True)
    atomic.write_text(options.out / "clips.json", text + "\n")
    if options.json:
        print(text)
    else:
        print(f"{len(report)} clips | " + " | ".join(FIGURES.values()))
        for name, figures in rows.items():
            print(f"{name} | " + " | ".join(f"{value:.3f}" for value in figures.values()))
    return 1 if failed else 0
