"""Small films, made with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random grey picture, uint8."""
    import cv2

    noise = np.random.default_rng(seed).random((height // 4 + 2, width // 4 + 2), np.float32)
    return (cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 200 + 20).astype(np.uint8)


def panning(count: int, height: int = 48, width: int = 64, seed: int = 0, step: int = 1) -> list[np.ndarray]:
    """Frames of a camera that moves over a texture, uint8 (height, width)."""
    wide = texture(height, width + count * step, seed)
    return [wide[:, i * step : i * step + width] for i in range(count)]


def write_film(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    rate: int = 25,
    sound: bool = False,
    seconds: float | None = None,
    tags: dict[str, int] | None = None,
    chroma: Sequence[tuple[int, int]] = (),
) -> Path:
    """A film whose first planes are `frames`, without loss where the codec can; with a tone, `seconds` long.

    `chroma` has the values of each frame's other planes, 8 bits; they are grey without.
    """
    from fractions import Fraction

    import av

    height, width = frames[0].shape
    options = {"libx264": {"qp": "0", "g": "8"}}.get(codec, {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        tone = None
        if sound:
            tone = container.add_stream("aac", rate=44100, layout="mono")
        for number, values in enumerate(frames):
            frame = av.VideoFrame(width, height, pix_fmt)
            for index, plane in enumerate(frame.planes):
                kind, scale = (np.uint8, 1) if values.dtype == np.uint8 else (np.uint16, 4)
                value = scale * (chroma[number][index - 1] if chroma and index else 128)
                lines = np.full((plane.height, plane.line_size // np.dtype(kind).itemsize), value, kind)
                if index == 0:
                    lines[:, :width] = values
                plane.update(lines)
            frame.pts = pts[number] if pts is not None else number * 1000 // rate
            frame.time_base = Fraction(1, 1000)
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            length = int(44100 * (seconds or len(frames) / rate))
            wave = (0.1 * np.sin(np.arange(length) * 0.06)).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.sample_rate = 44100
            container.mux(tone.encode(samples))
            container.mux(tone.encode(None))
    return path


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """Times in seconds and contents of a film's first stream of a kind, "audio" or "video"."""
    import av

    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


def decoded(path: Path) -> list[tuple[float, list[np.ndarray]]]:
    """Times in seconds and planes of a film's frames."""
    import av

    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            kind = np.uint16 if frame.format.name.endswith("10le") else np.uint8
            planes = [np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
            frames.append((frame.time, planes))
    return frames


def film_in(folder: Path) -> Path:
    """The film that workflows load: shots of 12 and 9 frames, with sound; written once."""
    path = folder / "film.mp4"
    if not path.exists():
        write_film(path, panning(12, seed=1) + panning(9, seed=2), sound=True)
    return path
