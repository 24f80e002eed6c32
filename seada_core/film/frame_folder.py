"""Films as folders of numbered frames: pictures in, pictures of the same names out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..color.merging import merge_tiled
from ..color.sizes import diffusion_size, resize
from ..files import pictures
from ..threads import half_of_the_threads
from .keys import KeyPainter
from .motion import Array
from .segments import LENGTH, Segments
from .steady import SPACING, steady
from .streams import FilmError

RATE = 25  # frames a second that times of `--start`, `--hints` and the like count


def time_of(number: int) -> float:
    """The time in seconds of a frame, counted from 0."""
    return number / RATE


def numbered(folder: Path) -> list[Path]:
    """The frames of a folder in the order of the last number in their names.

    Raises:
        FilmError: there are none, or a name has no number.
    """
    from ..files.folders import find

    def number(path: Path) -> tuple[int, str]:
        digits = "".join(c if c.isdecimal() else " " for c in path.stem).split()
        if not digits:
            raise FilmError(f"{path.name} has no number: frames of a film are numbered, as in 00001.png")
        return int(digits[-1]), path.name

    return sorted(find([folder]), key=number)


def size_of(paths: Sequence[Path]) -> tuple[int, int]:
    """Height and width of the first frame."""
    height, width = pictures.read(paths[0]).pixels.shape[:2]
    return height, width


@half_of_the_threads()
def colorize_frames(
    paths: Sequence[Path],
    folder: Path,
    painter: KeyPainter,
    *,
    spacing: int = SPACING,
    job: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Colour numbered frames into a folder; an interrupted run of the same `job` is continued.

    Raises:
        FilmError, PictureError: a frame cannot be read or has another size; what is done is kept.
    """
    segments = Segments.of(folder)
    segments.begin(job or {}, overwrite)
    key = segments.latest()
    first = 0 if key is None else key.index + 1
    size = size_of(paths)
    small = diffusion_size(size, painter.options.resolved(painter.colorizer.preset).size)

    def read() -> Iterator[tuple[float, Array]]:
        for number, path in enumerate(paths[first:], first):
            yield time_of(number), _small(path, size, small)

    done = first
    for path, result in zip(paths[first:], steady(read(), painter, spacing, painter.steering.times, key)):
        picture = pictures.read(path)
        target = folder / (path.name if path.suffix.lower() in pictures.WRITABLE else f"{path.stem}.png")
        deep = picture.is_deep and pictures.holds_16_bits(target)
        chroma = torch.from_numpy(result.chroma).permute(2, 0, 1)
        rgb = merge_tiled(chroma, picture.luminance, dtype=np.uint16 if deep else np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        pictures.write(picture.with_rgb(rgb), target)
        if progress is not None:
            progress(result.index + 1, len(paths))
        if result.key is not None and result.index + 1 - done >= LENGTH:
            segments.save(result.key, result.index)
            done = result.index + 1
    segments.discard()


def _small(path: Path, size: tuple[int, int], small: tuple[int, int]) -> Array:
    luminance = pictures.read(path).luminance
    if luminance.shape != size:
        raise FilmError(
            f"{path} is {luminance.shape[1]}×{luminance.shape[0]}, the frames before it {size[1]}×{size[0]}: "
            "all frames of a film have one size"
        )
    gray = torch.from_numpy(luminance.astype(np.float32))[None, None]
    return resize(gray / 255 if luminance.dtype.kind == "u" else gray.clamp(0, 1), small)[0, 0].numpy()
