"""Films in: what a file holds, and its frames one by one, with PyAV."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import one_line
from .planes import Layout, Plane

if TYPE_CHECKING:
    pass

Source = Path | io.BytesIO

HDR = {16: "PQ (HDR10)", 18: "HLG"}  # transfer characteristics of ITU-T H.273
COLORED = 0.02  # mean distance of chroma from grey from which a film has colours already
LUMA_FIRST = re.compile(r"(yuvj?4\d\dp|gray)(10le)?")  # pixel formats whose first plane is luminance as it is
MISSING = 0.9  # share of a film's stated length that must be there


class FilmError(ValueError):
    """A film that cannot be read or written; the message is one line that says what to do."""


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise FilmError("films need PyAV: pip install av") from error
    return av


@dataclass(frozen=True)
class Film:
    """What a file holds. `size` is (height, width) as shown, after rotation by `turns` quarter turns to the left."""

    source: Source
    name: str
    size: tuple[int, int]
    turns: int
    layout: Layout
    rate: Fraction
    time_base: Fraction
    times: np.ndarray[Any, np.dtype[np.int64]] = field(repr=False)  # of all frames, in units of `time_base`
    notes: tuple[str, ...] = ()

    def seconds(self, pts: int) -> float:
        """A frame's time, from the first frame on."""
        return float((pts - int(self.times[0])) * self.time_base)

    def near(self, seconds: float) -> int:
        """The pts of the frame that is shown at a time. Raises FilmError for a time outside the film."""
        times = (self.times - self.times[0]) * float(self.time_base)
        last = times[-1] + 1 / float(self.rate)
        if not 0 <= seconds <= last:
            raise FilmError(f"{seconds:.2f} s is not in {self.name}, which has {last:.2f} s")
        return int(self.times[np.abs(times - seconds).argmin()])


@dataclass
class Frame:
    """A frame as shown: its time in units of the film's `time_base`, and its luminance (H, W) in code values."""

    pts: int
    luma: Plane


def name_of(source: Source) -> str:
    return str(source) if isinstance(source, Path) else "the video"


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Any]:
    """The file as a PyAV container. Raises FilmError where it is not a film that can be read."""
    av = _av()
    if isinstance(source, io.BytesIO):
        source = io.BytesIO(source.getbuffer())
    try:
        container = av.open(str(source) if isinstance(source, Path) else source)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise FilmError(f"{name_of(source)} cannot be read as a film: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise FilmError(f"{name_of(source)} has no video stream; give a film")
        yield container


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error)


def probe(source: Source) -> Film:
    """What a film holds: all packets are read, and the first frame is decoded.

    Raises:
        FilmError: no video stream, no frames, truncated, HDR, or not readable.
    """
    name = name_of(source)
    with opened(source) as container:
        stream = container.streams.video[0]
        time_base = stream.time_base
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        stated = stream.duration * time_base if stream.duration else None
        if stated is None and container.duration:
            stated = Fraction(container.duration, 1_000_000)
        times = _times(container, stream, name, rate)
    if not len(times):
        raise FilmError(f"{name} has no frames")
    there = (int(times[-1]) - int(times[0])) * time_base + 1 / rate
    if stated is not None and there < MISSING * stated - 1:
        raise FilmError(
            f"{name} is truncated: it has {float(there):.1f} of {float(stated):.1f} s; to colour these, copy them "
            "first: ffmpeg -i FILM -c copy NEW"
        )
    with opened(source) as container:
        first = next(_decoded(container, name), None)
    if first is None:
        raise FilmError(f"{name} has no frames that can be decoded")
    transfer = HDR.get(int(first.color_trc))
    if transfer:
        raise FilmError(f"{name} is {transfer}, which the model does not know; convert it to SDR (BT.709) first")
    notes = []
    if first.interlaced_frame:
        notes.append("it is interlaced; deinterlace it first (ffmpeg -vf bwdif) for better colours")
    if _colored(first):
        notes.append("it has colours already; only its luminance is used")
    turns = round(getattr(first, "rotation", 0) / 90) % 4
    size = (first.width, first.height) if turns % 2 else (first.height, first.width)
    return Film(source, name, size, turns, _layout(first, turns), rate, time_base, times, tuple(notes))


def _times(container: Any, stream: Any, name: str, rate: Fraction) -> np.ndarray:
    av = _av()
    times = []
    try:
        for packet in container.demux(stream):
            if packet.size and not getattr(packet, "is_discard", False):
                times.append(packet.pts if packet.pts is not None else packet.dts)
    except (av.error.FFmpegError, OSError) as error:
        raise FilmError(f"{name} is damaged after {len(times)} frames: {_reason(error)}") from error
    if any(time is None for time in times):  # raw streams, whose decoder counts the frames
        step = 1 / (rate * stream.time_base)
        times = [round(number * step) for number in range(len(times))]
    return np.unique(np.array(times, np.int64))


def _colored(frame: Any) -> bool:
    if frame.format.name.startswith(("gray", "mono")):
        return False
    rgb = frame.reformat(width=64, height=64, format="rgb24").to_ndarray().astype(np.float32) / 255
    return float(np.ptp(rgb, axis=-1).mean()) > COLORED


def _layout(frame: Any, turns: int) -> Layout:
    """The layout of what is made from frames like this."""
    form = frame.format
    deep = form.components[0].bits > 8
    full = int(frame.color_range) == 2 or form.name.startswith(("yuvj", "gray"))
    matrix = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}.get(
        int(frame.colorspace), "bt709" if min(frame.width, frame.height) >= 720 else "bt601"
    )
    across, down = 2, 2
    if form.name.startswith("yuv4"):
        across, down = {"0": (2, 2), "2": (2, 1), "4": (1, 1)}.get(form.name[5], (2, 2))
    elif not form.name.startswith(("yuv", "gray", "nv", "p0")):
        across, down = 1, 1  # RGB
    if (turns % 2 and (across, down) == (2, 1)) or frame.height % down or frame.width % across:
        across, down = 1, 1  # most encoders take 4:2:0 of even sizes only
    return Layout(matrix, full, 10 if deep else 8, across, down)


def frames(film: Film, start: int | None = None, end: int | None = None, after: bool = False) -> Iterator[Frame]:
    """A film's frames in order, from the one with pts `start` (`after`: from the next one) to that with pts `end`.

    Raises:
        FilmError: the file is damaged, or the frames' size changes.
    """
    for jump in (True, False):
        with opened(film.source) as container:
            if start is not None and jump:
                container.seek(start, stream=container.streams.video[0])
            count, arrived = 0, start is None
            for decoded in _decoded(container, film.name):
                pts = decoded.pts if decoded.pts is not None else int(film.times[min(count, len(film.times) - 1)])
                count += 1
                if start is not None and not arrived:
                    if pts > start and jump and count == 1:
                        break  # the container's index is wrong: decode from the beginning
                    if pts < start:
                        continue
                    arrived = True
                if end is not None and pts > end:
                    return
                if not (after and pts == start):
                    yield Frame(pts, _luma(decoded, film, pts))
            else:
                return


def _decoded(container: Any, name: str) -> Iterator[Any]:
    av = _av()
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    time = 0.0
    try:
        for frame in container.decode(stream):
            time = frame.time or time
            yield frame
    except (av.error.FFmpegError, OSError) as error:
        raise FilmError(f"{name} is damaged at {time:.1f} s: {_reason(error)}; cut it there") from error


def _luma(frame: Any, film: Film, pts: int) -> Plane:
    shown = (frame.width, frame.height) if film.turns % 2 else (frame.height, frame.width)
    if shown != film.size:
        raise FilmError(
            f"{film.name}: the size of its frames changes from {film.size[1]}×{film.size[0]} to {shown[1]}×{shown[0]} "
            f"at {film.seconds(pts):.2f} s; cut it there into two films"
        )
    layout = film.layout
    if not LUMA_FIRST.fullmatch(frame.format.name):
        frame = frame.reformat(format=layout.format, dst_color_range=2 if layout.full else 1)
    plane = frame.planes[0]
    values = np.frombuffer(plane, layout.dtype).reshape(plane.height, -1)[:, : plane.width]
    return np.ascontiguousarray(np.rot90(values, film.turns))
