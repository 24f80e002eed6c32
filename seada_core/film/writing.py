"""Films out: encoded segments, and their assembly with the source's sound, subtitles and chapters."""

from __future__ import annotations

import contextlib
import errno
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..files import atomic
from .streams import Film, FilmError, Frame, _av, _reason, opened

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}  # by suffix
CODECS = {".webm": "libvpx-vp9"}  # by suffix; others get H.264
QUALITY = 14  # of codecs with a constant rate factor: keeps grain
FLAT = {  # frames in their order, and few of them in memory
    "libx264": {"bf": "0", "rc-lookahead": "16"},
    "libx265": {"x265-params": "bframes=0:rc-lookahead=16:log-level=error"},
}


@dataclass(frozen=True)
class Encoding:
    """How the result is encoded: FFmpeg's name of a codec, and its constant rate factor (0 is lossless or best)."""

    codec: str = "libx264"
    quality: int = QUALITY

    @classmethod
    def for_target(cls, target: Path, codec: str | None = None, quality: int | None = None) -> Encoding:
        """The encoding that suits a file name.

        Raises:
            FilmError: this PyAV does not have the codec, or knows no container for the name.
        """
        av = _av()
        codec = codec or CODECS.get(target.suffix.lower(), "libx264")
        try:
            found = av.codec.Codec(codec, "w")
        except ValueError:
            found = None
        if found is None or found.type != "video":
            names = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1")
            there = [name for name in names if name in av.codecs_available]
            raise FilmError(f"this PyAV has no encoder {codec!r} for video; it has {', '.join(there)}")
        try:
            with av.open(_Nowhere(), "w", format=_container(target)) as container:
                container.add_stream(codec, rate=25)
        except (ValueError, av.error.FFmpegError) as error:
            raise FilmError(f"{target.name} cannot hold {codec}: {_reason(error)}; use .mkv, .mp4 or .mov") from error
        return cls(codec, QUALITY if quality is None else quality)

    def options(self) -> dict[str, str]:
        """Options of the encoder."""
        if self.codec in ("libx264", "libx265", "libsvtav1", "libaom-av1"):
            return {"crf": str(self.quality), **FLAT.get(self.codec, {})}
        if self.codec == "libvpx-vp9":
            return {"crf": str(self.quality), "b": "0", "row-mt": "1", "cpu-used": "4"}
        return {}


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, data: bytes) -> int:
        return len(data)


def _container(target: Path) -> str | None:
    av = _av()
    name = CONTAINERS.get(target.suffix.lower())
    if name is None or name not in av.formats_available:
        raise FilmError(f"{target.name}: results can be written as {', '.join(CONTAINERS)}")
    return name


class SegmentWriter:
    """Encodes frames into a file of their own, with their timestamps."""

    def __init__(self, path: Path, film: Film, encoding: Encoding):
        av = _av()
        self.film = film
        self.container = av.open(str(path), "w", format="nut")
        try:
            stream = self.container.add_stream(encoding.codec, rate=film.rate, options=encoding.options())
            layout = film.layout
            stream.height, stream.width = film.size
            stream.pix_fmt = layout.format
            context = stream.codec_context
            stream.time_base = context.time_base = film.time_base
            context.color_range = 2 if layout.full else 1
            context.colorspace = {"bt709": 1, "bt601": 6, "bt2020": 9}[layout.matrix]
            self.stream = stream
        except BaseException:
            self.container.close()
            raise

    def write(self, frame: Frame, chroma: Tensor) -> None:
        """Encode a frame with chroma (1, 2, h, w) in its own luminance."""
        planes = frame.luma, *self.film.layout.chroma_planes(frame.luma, chroma)
        encoded = _av().VideoFrame(self.film.size[1], self.film.size[0], self.film.layout.format)
        for plane, values in zip(encoded.planes, planes):
            lines = np.zeros((values.shape[0], plane.line_size // values.itemsize), values.dtype)
            lines[:, : values.shape[1]] = values
            plane.update(lines)
        encoded.pts, encoded.time_base = frame.pts, self.film.time_base
        encoded.color_range = 2 if self.film.layout.full else 1
        encoded.colorspace = self.stream.codec_context.colorspace
        self.container.mux(self.stream.encode(encoded))

    def close(self, complete: bool) -> None:
        """Finish the file, or leave it as it is where writing failed."""
        if complete:
            self.container.mux(self.stream.encode(None))
            self.container.close()
            return
        with contextlib.suppress(_av().error.FFmpegError, OSError):  # the first error is the one to report
            self.container.close()


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns an error of writing into a FilmError that says what to do."""
    av = _av()
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise FilmError(f"{name}: the disk is full; what is done is kept: make room, and run this again") from error
        raise FilmError(f"{name} cannot be written: {_reason(error)}") from error


def assemble(film: Film, segments: Sequence[Path], target: Path, part: tuple[int, int] | None = None) -> list[str]:
    """Join segments with the source's other streams, whose packets are copied, into `target`.

    Args:
        part: the first and last pts where the result is a part of the film; it then begins at zero.
    Returns:
        notes on streams that the container cannot hold.
    Raises:
        FilmError: writing fails; `target` is then as it was.
    """
    av = _av()
    with explained(str(target)), atomic.replacing(target) as temporary, opened(film.source) as source:
        options = {"movflags": "+faststart"} if _container(target) in ("mp4", "mov") else {}
        with av.open(str(temporary), "w", format=_container(target), options=options) as result:
            with av.open(str(segments[0])) as first:
                video = result.add_stream_from_template(first.streams.video[0])
            video.time_base = film.time_base
            video.metadata.update(source.streams.video[0].metadata)
            copied, notes = _copied(source, result)
            result.metadata.update(source.metadata)
            if part is None:
                _copy_chapters(source, result)
            shift = 0 if part is None else part[0] * film.time_base
            end = None if part is None else (part[1] + 1) * film.time_base
            streams = _video(segments, video), _others(source, copied, shift, end)
            for _, packet in heapq.merge(*streams, key=lambda timed: timed[0]):
                if shift:
                    back = round(shift / packet.time_base)
                    packet.pts -= back
                    packet.dts -= back
                result.mux(packet)
    return notes


def _copied(source: Any, result: Any) -> tuple[dict[int, Any], list[str]]:
    """The streams of a result by the indices of those of the source whose packets they get."""
    copied, notes = {}, []
    for stream in source.streams:
        if stream.type not in ("audio", "subtitle", "attachment"):
            continue
        name = f"{stream.type} stream {stream.index}"
        try:
            new = result.add_stream_from_template(stream)
        except (ValueError, _av().error.FFmpegError) as error:
            notes.append(f"{name} was skipped ({_reason(error)}); .mkv holds most kinds")
            continue
        new.metadata.update(stream.metadata)
        with contextlib.suppress(AttributeError, ValueError):
            new.disposition = stream.disposition
        copied[stream.index] = new
    return copied, notes


def _copy_chapters(source: Any, result: Any) -> None:
    if hasattr(result, "set_chapters"):
        result.set_chapters(source.chapters())


def _video(segments: Sequence[Path], stream: Any) -> Iterator[tuple[float, Any]]:
    for segment in segments:
        with _av().open(str(segment)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    packet.dts = packet.pts  # frames are encoded in their order, see `FLAT`
                    packet.stream = stream
                    yield float(packet.pts * packet.time_base), packet


def _others(source: Any, copied: dict[int, Any], start: Any, end: Any) -> Iterator[tuple[float, Any]]:
    if not copied:
        return
    last = 0.0
    for packet in source.demux([source.streams[index] for index in copied]):
        if not packet.size or packet.dts is None:
            continue
        time = packet.dts * packet.time_base
        if (start and time < start) or (end is not None and time >= end):
            continue
        last = max(last, float(time))
        packet.stream = copied[packet.stream.index]
        yield last, packet
