"""Reading and writing photos of any size and mode; writes are atomic.

A `Picture` keeps what a photo carries besides its pixels (alpha, EXIF, XMP, IPTC, texts, resolution), upright and in
sRGB (see `profiles`). Files of more than 8 bits keep their precision: grey as float luminance, the colours of PNG and
TIFF as 16 bits (see `sixteen_bit`).
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from ..errors import reason
from . import atomic, formats, metadata, repair, sixteen_bit, tiff
from .formats import SUFFIXES
from .picture import Picture, PictureError, check_size, deep_picture, eight_bits, from_pil, max_pixels, profile, to_pil

__all__ = [
    "SUFFIXES",
    "WRITABLE",
    "Picture",
    "PictureError",
    "from_pil",
    "holds_16_bits",
    "losses",
    "max_pixels",
    "page_count",
    "read",
    "read_bytes",
    "to_pil",
    "write",
]

QUALITY = 95  # of JPEG and WebP

WRITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"subsampling": 0}),
    ".jpeg": ("JPEG", {"subsampling": 0}),
    ".png": ("PNG", {"compress_level": 4}),  # as small as 6, in four fifths of the time
    ".webp": ("WEBP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
}
OPAQUE = ("JPEG", "BMP")

_bomb_lock = threading.Lock()


def read(path: str | os.PathLike, limit: int | None = None, page: int | None = None, partial: bool = False) -> Picture:
    """The picture file at `path`. Raises PictureError if it cannot be read.

    limit: pixels of the largest picture that is decoded; None for `max_pixels`.
    page: which of a file's pictures, from 0 (see `page_count`); None for the first, with a note where there are others.
    partial: of a file that is cut short, read what is there, with a note.
    """
    path = Path(path)
    with _explained(path):
        if path.is_dir():
            raise PictureError(f"{path} is a folder, not a picture")
        if not path.exists():
            raise PictureError(f"{path} does not exist")
        return _open(path, path, path.stat().st_size, limit, page, partial)


def read_bytes(encoded: bytes, name: str, limit: int | None = None, partial: bool = False) -> Picture:
    """`read` for an encoded picture in memory; `name` is used in error messages."""
    with _explained(name):
        return _open(io.BytesIO(encoded), name, len(encoded), limit, None, partial)


def page_count(path: str | os.PathLike) -> int:
    """How many pictures a file holds; 1 for one that cannot be read."""
    try:
        with _own_limit(), _Bounded(io.FileIO(path)) as file, Image.open(file, formats=formats.formats()) as image:
            return len(formats.pages(image))
    except Exception:  # `read` says what is wrong
        return 1


def _open(
    source: Path | io.BytesIO, name: object, length: int, limit: int | None, page: int | None, partial: bool
) -> Picture:
    if length == 0:
        raise PictureError(f"{name} is empty (0 bytes)")
    try:
        return _decoded(source, name, limit, page)
    except PictureError:
        raise
    except Image.UnidentifiedImageError:
        with _own_limit(), contextlib.closing(_file(source)) as file:
            start = file.read(formats.SNIFFED)
            found = formats.layout(file) or formats.unread(start, Path(str(name)).suffix)
        if found:
            raise PictureError(f"{name} {found}") from None
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        with _own_limit(), contextlib.closing(_file(source)) as file:
            mended = repair.with_end(file)
        if mended is not None:
            picture = _decoded(io.BytesIO(mended), name, limit, page)
            note = "its end marker is missing, all lines are there"
        elif partial:
            picture = _decoded(source, name, limit, page, partial=True)
            note = f"it is cut short ({reason(error)}): what is missing stays plain"
        else:
            problem = f"{name} is damaged or cut short: {reason(error)}"
            raise PictureError(f"{problem}; --partial colours what is there") from error
        return replace(picture, notes=(*picture.notes, note))


def _file(source: Path | io.BytesIO) -> Any:
    """A file of its own on the source, from its start."""
    return io.BytesIO(source.getbuffer()) if isinstance(source, io.BytesIO) else _Bounded(io.FileIO(source))


def _decoded(
    source: Path | io.BytesIO, name: object, limit: int | None, page: int | None, partial: bool = False
) -> Picture:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_limit())
        if partial:
            stack.enter_context(repair.truncated_allowed())
        frame = 0

        def opened() -> ImageFile.ImageFile:
            file = stack.enter_context(_file(source))
            image = stack.enter_context(Image.open(file, formats=formats.formats()))
            if frame:
                image.seek(frame)
            return image

        image = opened()
        check_size(image.size, limit)
        if formats.preview_only(image):
            raise PictureError(f"{name} {formats.unread(b'', '.dng')}")
        pages = formats.pages(image)
        if page is not None and page >= len(pages):
            raise PictureError(f"{name} has {len(pages)} pages, not {page + 1}")
        frame = pages[page or 0]
        if frame:
            image.seek(frame)
            check_size(image.size, limit)
        try:
            is_deep = sixteen_bit.is_deep(image)
        except ValueError as error:
            raise PictureError(f"{name}: {error}") from None
        picture = deep_picture(*sixteen_bit.load(opened)) if is_deep else from_pil(image, limit)
        notes = picture.notes
        if page is None and len(pages) > 1:
            notes = (*notes, f"it is the first of {len(pages)} pictures in the file; --pages all takes each")
        return replace(picture, pages=len(pages), notes=notes)


class _Bounded(io.BufferedReader):
    """A file that never allocates more than it holds, whatever length a damaged file declares (JPEG 2000)."""

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextlib.contextmanager
def _explained(name: object) -> Iterator[None]:
    """Converts all errors of reading to a PictureError."""
    try:
        yield
    except PictureError as error:
        raise error if str(name) in str(error) else PictureError(f"{name}: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture that can be read (JPEG, PNG, TIFF, WebP, BMP, GIF...)") from error
    except PermissionError as error:
        raise PictureError(f"{name} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise PictureError(f"{name} is too large for this machine's memory") from error
    except Exception as error:  # Decoders of damaged files raise nearly anything.
        raise PictureError(f"{name} is damaged or cut short: {reason(error)}") from error


def holds_16_bits(path: str | os.PathLike) -> bool:
    """Whether `write` keeps a picture's 16 bits in a file with this suffix."""
    return WRITABLE.get(Path(path).suffix.lower(), ("",))[0] in sixteen_bit.WRITABLE


def losses(picture: Picture, path: str | os.PathLike) -> list[str]:
    """What a file of this suffix cannot hold of a picture, in words."""
    suffix, found = formats.suffix_of(path), []
    if picture.is_deep and not holds_16_bits(path):
        found.append(f"{suffix} holds 8 of its 16 bits; write .png or .tif to keep all")
    lost = metadata.fitted(picture.metadata, WRITABLE[suffix][0])[1] if suffix in WRITABLE else []
    if lost:
        found.append(f"{suffix} cannot hold its {', '.join(lost)}; write .png or .tif to keep all")
    return found


def write(picture: Picture, path: str | os.PathLike, quality: int | None = None) -> None:
    """Write the picture in the format of the suffix; an existing file is replaced only by a complete one.

    uint16 RGB stays 16-bit in PNG and TIFF, everything else is written as 8-bit. JPEG has no chroma subsampling; it and
    WebP have `quality` 1 to 100, 95 if not given, and a picture of a lossless WebP is written as such. JPEG and BMP
    have no alpha: the picture is composited on white. What metadata a format cannot hold is lost, see `losses`. Raises
    PictureError for an unknown suffix, a missing folder, a full disk and sizes that the format cannot hold.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise PictureError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {', '.join(WRITABLE)}")
    if not path.parent.is_dir():
        raise PictureError(f"{path}: its folder does not exist; make it first")
    if path.is_dir():
        raise PictureError(f"{path} is a folder; name a file")
    # A symbolic link is kept, and points to the new file.
    target = Path(os.path.realpath(path))
    try:
        with atomic.opened(target, unique=True, durable=False) as file:
            _encode(picture, file, path, quality)
    except (OSError, ValueError, SystemError, struct.error) as error:
        raise PictureError(f"cannot write {path}: {reason(error)}") from error


def _encode(picture: Picture, file: BinaryIO, path: Path, quality: int | None) -> None:
    kind, options = WRITABLE[path.suffix.lower()]
    carried, _ = metadata.fitted(picture.metadata, kind)
    icc, dpi = profile(picture), picture.dpi
    deep = picture.pixels.dtype == np.uint16
    if kind == "TIFF" or (deep and kind == "PNG"):
        values = picture.pixels if deep else eight_bits(picture.pixels)
        if picture.alpha is not None:
            alpha = picture.alpha
            if deep and alpha.dtype != np.uint16:
                alpha = alpha.astype(np.uint16) * 257
            values = np.dstack([values, alpha if deep else eight_bits(alpha)])
        encode = sixteen_bit.write_png if kind == "PNG" else tiff.write
        encode(file, values, carried, icc, dpi)
        return
    image = to_pil(picture)
    if image.has_transparency_data and kind in OPAQUE:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground.convert(image.mode.removesuffix("A"))
    image.info = {}
    given: dict[str, Any] = {"icc_profile": icc, "dpi": dpi, "exif": carried.exif}
    if kind in ("JPEG", "WEBP"):
        given["quality"] = QUALITY if quality is None else quality
    if kind == "JPEG":
        given |= metadata.jpeg_options(carried)
    elif kind == "PNG":
        given["pnginfo"] = metadata.png_chunks(carried)
    elif kind == "WEBP":
        given |= {"xmp": carried.xmp, "exif": metadata.with_resolution(carried, dpi).exif}
        if picture.lossless and quality is None:
            given |= {"lossless": True, "exact": True}
    image.save(file, kind, **options, **{name: value for name, value in given.items() if value is not None})


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    # Pillow's limit and its TIFF layouts are globals of its modules: they are changed only while a file is read.
    with _bomb_lock, warnings.catch_warnings(), formats.more_layouts():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
