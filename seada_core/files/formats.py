"""Which kinds of files are pictures that are read, which are known but not read and what to do about them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, TiffImagePlugin

# Formats that Pillow decodes itself, and pillow-heif's where it is installed: EPS, for example, would run Ghostscript.
READABLE = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO"),
    *("PNG", "PPM", "PSD", "TGA", "TIFF", "WEBP"),
)
SUFFIXES = frozenset(
    (".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jif", ".jp2")
    + (".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd")
    + (".tga", ".tif", ".tiff", ".webp")
)
_RAW = "develop it with rawpy or a raw converter, and export it as a 16-bit TIFF"
_EXPORT = "export it as TIFF or PNG from the program that made it"
# name, and the way out, of formats that are known and not read
_PDF = ("a PDF", "take its pictures out with pdfimages -all, or its pages with pdftoppm -tiff")
_JXL = ("JPEG XL", "convert it with djxl to PNG, or back to the JPEG that it was made of")
_CAMERA_RAW = ("camera raw", _RAW)
_HEIC = ("HEIC", "pip install pillow-heif reads it; or export it as JPEG")
_EXR = ("OpenEXR or Radiance HDR", "tone-map it and export it as a 16-bit TIFF")
_FILM = ("a film", "take its frames out as pictures, for example with ffmpeg")
_CAMERA_RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
FOREIGN: dict[str, tuple[str, str]] = {
    ".pdf": _PDF,
    ".jxl": _JXL,
    **dict.fromkeys(_CAMERA_RAW_SUFFIXES, _CAMERA_RAW),
    **dict.fromkeys((".exr", ".hdr"), _EXR),
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), ("JPEG XR", "convert it to TIFF with JxrDecApp")),
    **dict.fromkeys((".djvu", ".djv"), ("DjVu", "take its pages out with ddjvu -format=tiff")),
    **dict.fromkeys((".eps", ".ps", ".ai"), ("PostScript", "render it to TIFF, for example with Ghostscript")),
    **dict.fromkeys((".svg", ".svgz", ".wmf", ".emf"), ("a drawing", "render it to PNG")),
    **dict.fromkeys((".psb", ".xcf", ".kra", ".afphoto", ".clip"), ("a layered file", _EXPORT)),
    **dict.fromkeys((".dcm", ".fits", ".fit"), ("a scientific picture", "export it as a 16-bit TIFF")),
    **dict.fromkeys((".pcd", ".fpx", ".pct", ".pict", ".pcx", ".lsm", ".czi", ".svs"), ("an older format", _EXPORT)),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".m4v", ".wmv"), _FILM),
}
_MAGIC: tuple[tuple[int, bytes, tuple[str, str]], ...] = (
    (0, b"%PDF", _PDF),
    (0, b"\xff\x0a", _JXL),
    (0, b"\0\0\0\x0cJXL ", _JXL),
    (8, b"CR\x02\0", _CAMERA_RAW),
    (0, b"FUJIFILMCCD-RAW", _CAMERA_RAW),
    (0, b"IIRO", _CAMERA_RAW),
    (0, b"IIU\0", _CAMERA_RAW),
    (4, b"ftypcrx", _CAMERA_RAW),
    (4, b"ftypheic", _HEIC),
    (4, b"ftypheix", _HEIC),
    (4, b"ftyphevc", _HEIC),
    (4, b"ftypmif1", _HEIC),
    (4, b"ftypmsf1", _HEIC),
    (0, b"II\xbc", FOREIGN[".jxr"]),
    (0, b"AT&TFORM", FOREIGN[".djvu"]),
    (0, b"v/1\x01", _EXR),
    (0, b"#?RADIANCE", _EXR),
    (0, b"%!PS", FOREIGN[".eps"]),
    (0, b"8BPS\0\x02", FOREIGN[".psb"]),
    (0, b"gimp xcf", FOREIGN[".xcf"]),
    (0, b"SIMPLE  =", FOREIGN[".fits"]),
    (128, b"DICM", FOREIGN[".dcm"]),
    (4, b"ftypisom", FOREIGN[".mp4"]),
    (4, b"ftypmp4", FOREIGN[".mp4"]),
    (4, b"ftypqt", FOREIGN[".mp4"]),
)
MOST_PAGES = 10_000  # of a file; one may declare billions
SNIFFED = 132  # bytes of a file's start that `unread` looks at

_DNG_VERSION, _SUBFILE, _SUB_IFDS = 50706, 254, 330
_REDUCED, _MASK = 1, 4  # bits of a TIFF's NewSubfileType
_CFA, _LINEAR_RAW = 32803, 34892  # a TIFF's photometric interpretations of raw data


# Layouts of TIFF that Pillow reads in one byte order only: its table's keys and values.
_ORDERS: dict[Any, tuple[str, str]] = {
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    (b"MM", 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 1, (1,), 1, (32,), ()): ("I", "I;32B"),
}


@contextlib.contextmanager
def more_layouts() -> Iterator[None]:
    """Lets Pillow read TIFFs of either byte order."""
    added = {key: value for key, value in _ORDERS.items() if key not in TiffImagePlugin.OPEN_INFO}
    TiffImagePlugin.OPEN_INFO.update(added)
    try:
        yield
    finally:
        for key in added:
            TiffImagePlugin.OPEN_INFO.pop(key, None)


@lru_cache(maxsize=1)
def formats() -> list[str]:
    """Those of READABLE that this installation has, for `Image.open`."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return [kind for kind in READABLE if kind in Image.OPEN]


def unread(start: bytes, suffix: str = "") -> str | None:
    """What a file is that cannot be read, and the way out, by its first `SNIFFED` bytes, or else its suffix."""
    found = next((kind for at, magic, kind in _MAGIC if start[at : at + len(magic)] == magic), None)
    if found is None:
        found = _tiff(start) or FOREIGN.get(suffix.lower())
    return None if found is None else f"is {found[0]}, which is not read: {found[1]}"


def _tiff(start: bytes) -> tuple[str, str] | None:
    return ("a TIFF of a kind that is not read", _EXPORT) if start[:4] in TiffImagePlugin.PREFIXES else None


def layout(file: Any) -> str | None:
    """The layout of a TIFF's first picture in words, for one that cannot be read; None if it does not tell."""
    try:
        file.seek(0)
        header = file.read(8)
        if header[:4] not in TiffImagePlugin.PREFIXES:
            return None
        header += file.read(8) if header[2:3] == b"+" or header[3:4] == b"+" else b""
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        if tags.get(262) in (_CFA, _LINEAR_RAW) or _DNG_VERSION in tags:
            return f"is {_CAMERA_RAW[0]}, which is not read: {_RAW}"
        bits, kind = tags.get(258, (1,)), {1: "unsigned", 2: "signed", 3: "floating-point"}.get(tags.get(339, (1,))[0])
        samples, photometric = tags.get(277, 1), tags.get(262, "not given")
        if not isinstance(samples, int) or not isinstance(bits[0], int) or not isinstance(photometric, int | str):
            return None  # a damaged file has pages of bytes there
        what = f"{samples} x {bits[0]} bits, {kind or 'complex'}, photometric {str(photometric)[:20]}"
        return f"is a TIFF of {what}, which is not read: save it with 8 or 16 bits a channel, grey or RGB"
    except Exception:  # of a damaged file: nearly anything
        return None


def preview_only(image: Any) -> bool:
    """Whether an opened TIFF shows only the preview of raw data, as DNG, NEF and ARW do."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return False
    return _DNG_VERSION in tags or bool(tags.get(_SUBFILE, 0) & _REDUCED and _SUB_IFDS in tags)


def pages(image: Any) -> list[int]:
    """The frames of an opened file that are pictures of their own: not thumbnails or masks of a TIFF, nor layers."""
    count = min(1 if image.format == "PSD" else getattr(image, "n_frames", 1), MOST_PAGES)
    if count == 1 or image.format != "TIFF":
        return list(range(count))
    found = []
    for frame in range(count):
        image.seek(frame)
        if not image.tag_v2.get(_SUBFILE, 0) & (_REDUCED | _MASK):
            found.append(frame)
    image.seek(0)
    return found or [0]


def suffix_of(path: str | os.PathLike) -> str:
    """A path's suffix in lower case."""
    return Path(path).suffix.lower()
