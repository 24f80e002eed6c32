"""Writing TIFF, of 8 or 16 bits a channel. Pillow's own directory writes the tags."""

from __future__ import annotations

import zlib
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

from .metadata import Metadata

_ROWS = 64  # in a strip
_LEVELS = {1: 1, 2: 4}  # zlib's compression level, by bytes of a value: of 8 bits the quickest is smaller than LZW


def write(file: BinaryIO, values: np.ndarray, carried: Metadata, icc: bytes | None, dpi: tuple | None) -> None:
    """A deflated TIFF of grey or RGB, with or without alpha: uint8 or uint16 `(H, W)` or `(H, W, 2 to 4)`."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    if carried.exif:
        block = Image.Exif()
        block.load(carried.exif)
        for tag in block:
            tags[tag] = block.get_ifd(tag) if tag in TiffTags.TAGS_V2_GROUPS else block[tag]
    for tag, kind, data in ((34675, TiffTags.UNDEFINED, icc), (700, TiffTags.BYTE, carried.xmp),
                            (33723, TiffTags.UNDEFINED, carried.iptc)):  # fmt: skip
        if data:
            tags.tagtype[tag] = kind
            tags[tag] = data
    if dpi:
        tags[282], tags[283], tags[296] = *dpi, 2  # pixels per inch
    strips = []
    for start in range(0, height, _ROWS):
        rows = values[start : start + _ROWS].astype(values.dtype.newbyteorder("<"))
        rows[:, 1:] -= rows[:, :-1].copy()  # predictor 2
        strips.append(zlib.compress(rows.tobytes(), _LEVELS[values.itemsize]))
    lengths = [len(strip) for strip in strips]
    layout = {
        256: width, 257: height, 258: (8 * values.itemsize,) * channels, 259: 8, 262: 1 if channels < 3 else 2,
        277: channels, 278: _ROWS, 279: tuple(lengths), 273: tuple(accumulate(lengths[:-1], initial=0)), 284: 1, 317: 2,
    }  # fmt: skip
    if channels in (2, 4):
        layout[338] = 2  # unassociated alpha: colours are not premultiplied
    for tag, value in layout.items():
        tags[tag] = value
    tags.tagtype[273] = tags.tagtype[279] = TiffTags.LONG
    tags.save(file)  # strip offsets are relative to the end of the directory
    file.writelines(strips)
