"""A film in, the same film in steady colours out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..color.sizes import diffusion_size
from ..files import atomic
from ..threads import half_of_the_threads
from .background import in_background
from .keys import KeyPainter
from .segments import LENGTH, Segments
from .steady import SPACING, Key, Steady, steady
from .streams import Film, Frame, frames
from .writing import Encoding, SegmentWriter, assemble, explained

Progress = Callable[[int, int, Frame, Steady], None]  # frames done, in all, and the last one


@half_of_the_threads()
def colorize_film(
    film: Film,
    target: Path,
    painter: KeyPainter,
    encoding: Encoding,
    *,
    part: tuple[int, int] | None = None,
    spacing: int = SPACING,
    job: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Colour a film into `target`. What an interrupted run of the same `job` has done is used.

    Args:
        part: pts of the first and last frame; None for the whole film.
        spacing: frames from key to key.
        job: what the result depends on, as JSON; another one's remains are not used.
        progress: called after each frame; may raise to interrupt.
    Returns:
        notes for the user.
    Raises:
        FilmError: the film is damaged, or the result cannot be written; what is done is kept.
    """
    segments = Segments.of(target)
    with explained(str(target)):
        segments.begin(job or {}, overwrite)
        paths, key, pts = segments.done()
    start, end = part or (None, None)
    size = diffusion_size(film.size, painter.options.resolved(painter.colorizer.preset).size)
    total = len(film.times) if part is None else int(((film.times >= part[0]) & (film.times <= part[1])).sum())

    def read() -> Iterator[Frame]:
        return frames(film, start if pts is None else pts, end, after=pts is not None)

    lumas = ((film.seconds(frame.pts), film.layout.luminance(frame.luma, size)) for frame in read())
    colors = in_background(steady(lumas, painter, spacing, painter.steering.times, key), spacing)
    writer: SegmentWriter | None = None
    first = 0 if key is None else key.index + 1
    last: Key | None = None
    temporary = segments.folder / "unfinished.nut"
    try:
        for frame, result in zip(read(), colors):
            if writer is None:
                with explained(str(target)):
                    writer = SegmentWriter(temporary, film, encoding)
            with explained(str(target)):
                writer.write(frame, torch.from_numpy(result.chroma).permute(2, 0, 1)[None])
            if progress is not None:
                progress(result.index + 1, total, frame, result)
            last = result.key
            if last is not None and last.index - first + 1 >= LENGTH:
                with explained(str(target)):
                    paths.append(_finish(segments, writer, temporary, first, last, frame.pts))
                writer, first = None, last.index + 1
        if writer is not None and last is not None:  # a film ends with a key
            with explained(str(target)):
                paths.append(_finish(segments, writer, temporary, first, last, frame.pts))
            writer = None
    finally:
        colors.close()
        if writer is not None:
            writer.close(complete=False)
    notes = assemble(film, paths, target, part)
    segments.discard()
    return notes


def _finish(segments: Segments, writer: SegmentWriter, temporary: Path, first: int, key: Key, pts: int) -> Path:
    path = segments.path(first, key.index)
    writer.close(complete=True)
    segments.save(key, pts)
    atomic.rename(temporary, path)
    return path
