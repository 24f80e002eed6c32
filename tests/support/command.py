"""Shared by the tests of `python -m seada_core.colorize`; see also `photo` and `run` in conftest.py."""

import errno
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]


def scene(width: int = 40, height: int = 28) -> Image.Image:
    """A colour picture with smooth shading and hard edges."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([255 * x / max(1, width - 1), 255 * y / max(1, height - 1), 128 + 100 * np.sin(x / 3)], -1)
    image = Image.fromarray(rgb.astype(np.uint8))
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width // 2, height // 2), "white", "black")
    return image


def no_traces(folder: Path) -> bool:
    """Whether a folder has no partially written files."""
    return not [p for p in folder.rglob("*") if p.name.startswith(".") or ".part" in p.name]


class FullDisk(io.FileIO):
    """A file on a disk with 100 bytes left."""

    def write(self, data):
        if self.tell() + len(data) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def luma_share(source: Image.Image, result: Image.Image) -> float:
    """The share of pixels whose luminance is within 1/255 of the input's."""
    a, b = (np.asarray(image.convert("L")).astype(int) for image in (source, result))
    return float((abs(a - b) <= 1).mean())


def encoded(width: int = 40, height: int = 28, kind: str = "PNG") -> bytes:
    """A picture in a file's bytes."""
    buffer = io.BytesIO()
    scene(width, height).save(buffer, kind)
    return buffer.getvalue()


def album(folder: Path, count: int, bad: int | None = None) -> Path:
    """A folder of small photos of two sizes; the one numbered `bad` is none."""
    folder.mkdir()
    for k in range(count):
        scene(40 - 12 * (k % 2), 28 + k).save(folder / f"{k:02}.png")
    if bad is not None:
        (folder / f"{bad:02}.png").write_bytes(b"no picture")
    return folder


def one_step(model: Path, capfd) -> Callable[..., tuple[int, list[str], list[str]]]:
    """The command with a model and one step; it gives (status, stdout lines, stderr lines)."""
    from seada_core.colorize.__main__ import main

    def run(*argv):
        capfd.readouterr()
        status = main([*map(str, argv), "--model", str(model), "--device", "cpu", "--steps", "1", "--prompt", "x"])
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if not re.search("colours already|English texts", line)]
        return status, out.splitlines(), lines

    return run
