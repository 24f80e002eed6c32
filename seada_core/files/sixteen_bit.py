"""PNG and TIFF with 16 bits per colour channel, which Pillow reads as 8 bits and cannot write; see also `tiff`.

Values are uint16 `(H, W, C)`, 0..65535. Pillow decodes everything here: a file is decoded once for the high bytes and
once for the low ones.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from .metadata import Metadata, png_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITABLE = ("PNG", "TIFF")
_ROWS = 64  # filtered and compressed at a time
_LEVEL = 4  # zlib compression level
_RAW = re.compile(r"(RGB|RGBA|RGBX|LA);16[BLN]")


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an opened, not yet loaded file has 16 bits per channel, in colour or in grey with alpha.

    Raises ValueError if its layout is not supported.
    """
    return _raw(image) is not None


def _raw(image: ImageFile.ImageFile) -> str | None:
    """The layout of the file's samples as Pillow's raw mode; None for files that this module does not handle.

    Raises ValueError for a TIFF of 16-bit planes, which Pillow mistakes for 8 bits.
    """
    if not image.tile or image.format not in WRITABLE:
        return None
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    if tags.get(284) == 2 and 16 in tags.get(258, ()):
        raise ValueError("its 16-bit channels lie in separate planes, which is not supported; save it interleaved")
    args: Any = image.tile[0][3]
    raw = args if isinstance(args, str) else args[0]
    return raw if _RAW.fullmatch(raw) else None


def load(reopen: Callable[[], ImageFile.ImageFile]) -> list[Image.Image]:
    """The two images, of high and of low bytes, of a file that `is_deep`; `reopen` opens it again.

    Grey with alpha has mode LA, the rest RGB or RGBA.
    """
    first = reopen()
    raw = _raw(first)
    assert raw is not None
    if raw == "LA;16B":  # decode its four bytes per pixel as four channels
        return list(_split_gray(_decoded(first, "RGBA")))
    order = {"B": "BL", "L": "LB", "N": "LB" if sys.byteorder == "little" else "BL"}[raw[-1]]
    return [_decoded(reopen(), f"{raw[:-1]}{end}") for end in order]


def _decoded(image: ImageFile.ImageFile, raw: str) -> Image.Image:
    make = getattr(ImageFile, "_Tile", lambda *fields: fields)
    image.tile = [
        make(name, box, offset, raw if isinstance(args, str) else (raw, *(args or ())[1:]))
        for name, box, offset, args in image.tile
    ]
    image._mode = {"RGBX": "RGB"}.get(raw.split(";")[0], raw.split(";")[0])
    image.load()
    return image


def _split_gray(image: Image.Image) -> Iterator[Image.Image]:
    bands = image.split()
    for gray, alpha in (bands[0::2], bands[1::2]):
        half = Image.merge("LA", (gray, alpha))
        half.info = dict(image.info)
        yield half


def join(high: Image.Image, low: Image.Image) -> np.ndarray:
    """uint16 `(H, W, C)` of the images of high and low bytes."""
    values = np.asarray(high).astype(np.uint16)
    values <<= 8
    values |= np.asarray(low)
    return values


def write_png(file: BinaryIO, values: np.ndarray, carried: Metadata, icc: bytes | None, dpi: tuple | None) -> None:
    """A PNG of uint16 RGB or RGBA `(H, W, 3 or 4)`."""
    height, width, channels = values.shape

    def chunk(kind: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0))
    if icc:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if dpi:
        chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if carried.exif:
        chunk(b"eXIf", carried.exif.removeprefix(b"Exif\0\0"))
    for kind, data, *_ in png_chunks(carried).chunks:
        chunk(kind, data)
    compress = zlib.compressobj(_LEVEL)
    before = np.zeros((1, width * channels * 2), np.uint8)
    for start in range(0, height, _ROWS):
        rows = values[start : start + _ROWS].astype(">u2")
        rows = rows.view(np.uint8).reshape(len(rows), -1)
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = 2  # "up": a row minus the one above
        filtered[:, 1:] = rows - np.concatenate([before, rows[:-1]])
        before = rows[-1:]
        if data := compress.compress(filtered.tobytes()):
            chunk(b"IDAT", data)
    chunk(b"IDAT", compress.flush())
    chunk(b"IEND", b"")
