"""Files that are not whole: a JPEG without its end, and what is there of one that is cut short."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageFile

_END = b"\xff\xd9"
_NOISE = b"\x55" * 64  # more picture data, which changes the lines that are not complete


def with_end(file: Any) -> bytes | None:
    """A JPEG's bytes with the end marker that they lack; None for other files, and where picture data is missing too.

    Whether all lines are there shows in decoding it with more data than it has: that changes no line that is complete.
    """
    file.seek(0)
    if file.read(3) != b"\xff\xd8\xff":
        return None
    file.seek(0)
    encoded = file.read().removesuffix(b"\xff")
    shown = []
    for more in (b"", _NOISE):
        try:
            with Image.open(io.BytesIO(encoded + more + _END), formats=("JPEG",)) as image:
                shown.append(image.tobytes())
        except Exception:  # it is damaged otherwise
            return None
    return encoded + _END if shown[0] == shown[1] else None


@contextlib.contextmanager
def truncated_allowed() -> Iterator[None]:
    """Lets Pillow decode what is there of files that are cut short."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def is_lossless_webp(file: Any) -> bool:
    """Whether a WebP's first picture is coded without loss. The file is left where it was."""
    if file is None:
        return False
    here, at = file.tell(), 12
    try:
        while True:
            file.seek(at)
            name, length = struct.unpack("<4sI", file.read(8))
            if name in (b"VP8L", b"VP8 "):
                return name == b"VP8L"
            at += 24 if name == b"ANMF" else 8 + length + length % 2
    except (OSError, struct.error):
        return False
    finally:
        file.seek(here)
