"""How far the colours of a thing differ, in a film, before it leaves the picture and after it comes back.

    python -m benchmarks.quality.returns --data FOLDER [--photos 6] [--model FOLDER] [--spacing 8]

FOLDER has photos, of which two films each are made, with grain. In `edge` the camera pans until three quarters of what
it showed are outside, waits, and pans back. In `occluder` a part of the next photo comes in, covers a third of a still
picture, and goes away again. Figures are the mean change of (a*, b*) of 16 × 16 cells from the film's first frames to
its last: of what was away, and of what was seen all the time; and the mean chroma, so that steadiness that came from
grey shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import Table
from seada_core.color.sizes import resize
from seada_core.color.spaces import luminance, rgb_to_lab
from seada_core.evaluate.clips import in_steady_colors, mean
from seada_core.files import pictures
from seada_core.files.folders import find
from seada_core.film.steady import SPACING
from seada_core.pipeline import Colorizer

HEIGHT, WIDTH, WORLD = 288, 432, 768  # of a film's frames, and of the photo that the camera pans over, px
STEP = 12  # px a frame
STAY = 10  # frames before anything moves, and after
AWAY = 24  # frames that it stays away
GRAIN = 0.01
CELL = 16

Film = tuple[list[Tensor], Tensor]  # frames (1, H, W), and which pixels of the first frame were away (H, W)


def edge(photo: Tensor) -> Film:
    """A pan over a photo (1, HEIGHT, WORLD), and back."""
    far = WORLD - WIDTH
    there = list(range(0, far + 1, STEP))
    places = [0] * STAY + there + [far] * AWAY + there[::-1] + [0] * STAY
    away = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    away[:, :far] = True
    return [photo[..., x : x + WIDTH] for x in places], away


def occluder(photo: Tensor, other: Tensor) -> Film:
    """A still photo, of which a part of another one covers the middle for a while."""
    width = WIDTH // 3
    middle = (WIDTH - width) // 2
    there = list(range(-width, middle, STEP)) + [middle]
    places = [-width] * STAY + there + [middle] * AWAY + there[::-1] + [-width] * STAY
    frames = []
    for x in places:
        frame = photo[..., :WIDTH].clone()
        left, right = max(x, 0), max(x + width, 0)
        frame[..., left:right] = other[..., left - x : right - x]
        frames.append(frame)
    away = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    away[:, middle : middle + width] = True
    return frames, away


def films(folder: Path, count: int) -> Iterator[tuple[str, Film]]:
    """Both films of each photo, with grain."""
    grays = []
    for path in find([folder])[: count + 1]:
        photo = torch.from_numpy(pictures.read(path).pixels[..., :3].copy()).permute(2, 0, 1)[None] / 255
        height = round(WORLD * photo.shape[-2] / photo.shape[-1])
        photo = resize(photo, (max(height, HEIGHT), WORLD))
        top = (photo.shape[-2] - HEIGHT) // 2
        grays.append(luminance(photo[0, :, top : top + HEIGHT]))
    generator = torch.Generator().manual_seed(0)
    for gray, other in pairwise(grays):
        for name, (frames, away) in (("edge", edge(gray)), ("occluder", occluder(gray, other))):
            noisy = [(f + GRAIN * torch.randn(f.shape, generator=generator)).clamp(0, 1) for f in frames]
            yield name, (noisy, away)


def changes(film: list[Tensor], away: Tensor) -> tuple[float, float, float]:
    """The change of what was away, that of the rest, and the mean chroma of the last frames."""

    def cells(frames: list[Tensor]) -> Tensor:
        ab = torch.stack([rgb_to_lab(frame)[1:] for frame in frames]).mean(0)
        return torch.nn.functional.avg_pool2d(ab[None], CELL)[0]

    before, after = cells(film[: STAY // 2]), cells(film[-STAY // 2 :])
    share = torch.nn.functional.avg_pool2d(away[None, None].float(), CELL)[0, 0]
    change = torch.linalg.vector_norm(after - before, dim=0)
    hidden, seen = change[share == 1].mean().item(), change[share == 0].mean().item()
    return hidden, seen, torch.linalg.vector_norm(after, dim=0).mean().item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.returns", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--photos", type=int, default=6, help="how many of them")
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files')
    parser.add_argument("--spacing", type=int, default=SPACING, help="frames from key to key")
    options = parser.parse_args(arguments)
    colorizer = Colorizer.from_pretrained(options.model)
    about = f"films of {options.photos} photos of {options.data.name}, keys every {options.spacing} frames"
    table = Table("film_returns", about, ["change of what was away", "of what was seen", "mean chroma"])
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, (frames, away) in films(options.data, options.photos):
        row = changes(in_steady_colors(colorizer, frames, spacing=options.spacing), away)
        found.setdefault(name, []).append(row)
        table.add(f"{name} {len(found[name])}", *row)
    for name, rows in found.items():
        table.add(f"{name}, mean", *(mean(column) for column in zip(*rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
