"""Reading and writing photos of any size and mode; writes are atomic.

A `Picture` keeps what a photo carries besides its pixels (alpha, EXIF, ICC profile, resolution), upright. Files of more
than 8 bits keep their precision: grey as float luminance, the colours of PNG and TIFF as 16 bits (see `deep`).
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from ..errors import reason
from . import atomic, sixteen_bit

MAX_PIXELS = 200_000_000  # of a picture, unless overridden by the environment or the caller
LIMIT_VARIABLE = "SEADA_MAX_MEGAPIXELS"

SUFFIXES = frozenset(
    (".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg")
    + (".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp")
)
# Formats that Pillow decodes itself: EPS, for example, would run Ghostscript.
READABLE = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
WRITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {"compress_level": 4}),  # as small as 6, in four fifths of the time
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
    ".bmp": ("BMP", {}),
}
OPAQUE = ("JPEG", "BMP")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# TIFF tags that describe how the *old* file laid out its pixels; Pillow's EXIF of a TIFF holds them all.
_LAYOUT_TAGS = frozenset(
    [*range(254, 260), 262, 266, 273, *range(277, 282), 284, *range(288, 294), 301, *range(317, 326), 330]
    + [*range(332, 343), 347, *range(512, 522), 529, 530, 531, 532, 700, 33723, 34377, 34675]
)
_EXIF_LIMIT = 65_000  # bytes that one JPEG segment holds, less its header

# Raised for a damaged EXIF block, which is not a reason to refuse the photo.
_EXIF_ERRORS = (ValueError, TypeError, KeyError, IndexError, SyntaxError, EOFError, OSError, struct.error)

_bomb_lock = threading.Lock()


class PictureError(ValueError):
    """A picture that cannot be read or written; the one-line message names the file, the reason and what to do."""


@dataclass(frozen=True)
class Picture:
    """A photo, upright.

    `pixels`: uint8 or uint16 RGB `(H, W, 3)`, uint8 grey `(H, W)`, or float32 grey `(H, W)` in [0, 1] from 16-bit or
    float files. `alpha`: uint8 or uint16 `(H, W)`. `exif` carries no orientation. `icc` fits the pixels' kind. `dpi` is
    (x, y).
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width, height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits a channel."""
        return self.pixels.dtype != np.uint8

    @property
    def luminance(self) -> np.ndarray:
        """BT.601 luma `(H, W)`: uint8 (PIL's "L"), or float32 in [0, 1] where the file has more than 8 bits."""
        if self.pixels.ndim == 2:
            return self.pixels
        if self.is_deep:
            return self.pixels @ np.array([0.299, 0.587, 0.114], np.float32) / np.float32(65535)
        return np.asarray(Image.fromarray(self.pixels).convert("L"))

    def with_rgb(self, rgb: np.ndarray) -> Picture:
        """The same photo with other colours, uint8 or uint16 `(H, W, 3)`. A grey ICC profile is dropped, the rest kept.

        Raises ValueError if the size differs.
        """
        if rgb.shape != (*self.pixels.shape[:2], 3) or rgb.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected uint8 or uint16 {(*self.pixels.shape[:2], 3)}, got {rgb.dtype} {rgb.shape}")
        icc = self.icc if self.pixels.ndim == 3 else None
        return Picture(rgb, self.alpha, self.exif, icc, self.dpi)


def max_pixels() -> int:
    """Pixels of the largest picture that is read: SEADA_MAX_MEGAPIXELS of the environment, else MAX_PIXELS.

    Raises PictureError if the variable is not a number of megapixels above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return MAX_PIXELS
    try:
        limit = round(float(text) * 1e6)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise PictureError(f"{LIMIT_VARIABLE} is {text[:40]!r}: expected a number of megapixels above 0")
    return limit


def formats() -> list[str]:
    """Those of READABLE that this build of Pillow has, for `Image.open`."""
    Image.init()
    return [kind for kind in READABLE if kind in Image.OPEN]


def read(path: str | os.PathLike, limit: int | None = None) -> Picture:
    """The first frame of the picture file at `path`. Raises PictureError if it cannot be read.

    limit: pixels of the largest picture that is decoded; None for `max_pixels`.
    """
    path = Path(path)
    with _explained(path):
        if path.is_dir():
            raise PictureError(f"{path} is a folder, not a picture")
        if not path.exists():
            raise PictureError(f"{path} does not exist")
        return _open(path, path, path.stat().st_size, limit)


def read_bytes(encoded: bytes, name: str, limit: int | None = None) -> Picture:
    """`read` for an encoded picture in memory; `name` is used in error messages."""
    with _explained(name):
        return _open(io.BytesIO(encoded), name, len(encoded), limit)


def _open(source: Path | io.BytesIO, name: object, length: int, limit: int | None) -> Picture:
    if length == 0:
        raise PictureError(f"{name} is empty (0 bytes)")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_limit())

        def opened() -> ImageFile.ImageFile:
            if isinstance(source, io.BytesIO):
                source.seek(0)
                return stack.enter_context(Image.open(source, formats=formats()))
            file = stack.enter_context(_Bounded(io.FileIO(source)))
            return stack.enter_context(Image.open(file, formats=formats()))

        image = opened()
        _check_size(image.size, limit)
        try:
            is_deep = sixteen_bit.is_deep(image)
        except ValueError as error:
            raise PictureError(f"{name}: {error}") from None
        if not is_deep:
            return from_pil(image, limit)
        return _deep_picture(*sixteen_bit.load(opened))


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


def from_pil(image: Image.Image, limit: int | None = None) -> Picture:
    """A `Picture` of a PIL image of any mode. Raises PictureError over the pixel limit and for values not finite."""
    _check_size(image.size, limit)
    dpi, icc = _dpi(image), image.info.get("icc_profile")
    image.load()
    orientation, exif = _exif(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    pixels, alpha = _pixels(image)
    return Picture(pixels, alpha, exif, _fitting(icc, pixels), dpi)


def _check_size(size: tuple[int, int], limit: int | None) -> None:
    width, height = size
    limit = max_pixels() if limit is None else limit
    if width * height > limit:
        found, most = (f"{pixels / 1e6:.5g}" for pixels in (width * height, limit))
        wanted = -(-width * height // 10**6)
        raise PictureError(
            f"the picture is {width} x {height}, {found} megapixels, over the limit of {most}; make it smaller, or "
            f"allow it with --max-megapixels {wanted} or {LIMIT_VARIABLE}={wanted} in the environment"
        )
    if width * height == 0:
        raise PictureError("the picture has no pixels")


def _fitting(icc: bytes | None, pixels: np.ndarray) -> bytes | None:
    """The profile, if its colour space matches the pixels."""
    space = icc[16:20] if icc and len(icc) > 20 else None
    return icc if space == (b"RGB " if pixels.ndim == 3 else b"GRAY") else None


def _deep_picture(high: Image.Image, low: Image.Image) -> Picture:
    """The `Picture` of a file's high and low bytes, see `sixteen_bit.load`."""
    orientation, exif = _exif(high)
    if orientation in _UPRIGHT:
        high, low = (image.transpose(_UPRIGHT[orientation]) for image in (high, low))
    values, alpha = sixteen_bit.join(high, low), None
    key = high.info.get("transparency")
    if high.mode in ("LA", "RGBA"):
        values, alpha = values[..., :-1], np.ascontiguousarray(values[..., -1])
    elif isinstance(key, tuple):
        alpha = np.where((values == np.array(key)).all(-1), 0, 65535).astype(np.uint16)
    pixels = _gray_float(values[..., 0]) if high.mode == "LA" else np.ascontiguousarray(values)
    return Picture(pixels, alpha, exif, _fitting(high.info.get("icc_profile"), pixels), _dpi(high))


def to_pil(picture: Picture) -> Image.Image:
    """An 8-bit PIL image, mode L, LA, RGB or RGBA, whose `info` holds EXIF, ICC profile and resolution."""
    image = Image.fromarray(_eight_bits(picture.pixels))
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(_eight_bits(picture.alpha)))
    image.info.update(_extras(picture))
    return image


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of uint8, uint16, or floats in [0, 1]."""
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return values if values.dtype == np.uint8 else np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def holds_16_bits(path: str | os.PathLike) -> bool:
    """Whether `write` keeps a picture's 16 bits in a file with this suffix."""
    return WRITABLE.get(Path(path).suffix.lower(), ("",))[0] in sixteen_bit.WRITABLE


def write(picture: Picture, path: str | os.PathLike) -> None:
    """Write the picture in the format of the suffix; an existing file is replaced only by a complete one.

    uint16 RGB stays 16-bit in PNG and TIFF, everything else is written as 8-bit. JPEG has quality 95 and no chroma
    subsampling. JPEG and BMP have no alpha: the picture is composited on white. Raises PictureError for an unknown
    suffix, a missing folder, a full disk and sizes that the format cannot hold.
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
            _encode(picture, file, path)
    except (OSError, ValueError, SystemError, struct.error) as error:
        raise PictureError(f"cannot write {path}: {reason(error)}") from error


def _encode(picture: Picture, file: BinaryIO, path: Path) -> None:
    kind, options = WRITABLE[path.suffix.lower()]
    if picture.pixels.dtype == np.uint16 and holds_16_bits(path):
        values = picture.pixels
        if picture.alpha is not None:
            alpha = picture.alpha if picture.alpha.dtype == np.uint16 else picture.alpha.astype(np.uint16) * 257
            values = np.dstack([values, alpha])
        encode = sixteen_bit.write_png if kind == "PNG" else sixteen_bit.write_tiff
        encode(file, values, picture.exif, picture.icc, picture.dpi)
        return
    image = to_pil(picture)
    if image.has_transparency_data and kind in OPAQUE:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground.convert(image.mode.removesuffix("A"))
    options = {**options, **_extras(picture)}
    if kind == "JPEG" and len(options.get("exif", b"")) > _EXIF_LIMIT:
        del options["exif"]
    image.save(file, kind, **options)


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    # Pillow's limit is a global of its module, checked in `open`: it is disabled only while a file is read.
    with _bomb_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _pixels(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    if image.mode.startswith("I") or image.mode == "F":
        alpha = None
        key = image.info.get("transparency")
        values = np.asarray(image)
        if isinstance(key, int):
            alpha = np.where(values == key, 0, 255).astype(np.uint8)
        return _gray_float(values), alpha
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode[:-1] + "A")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    pixels = np.array(image.convert(mode))
    if not image.has_transparency_data:
        return pixels, None
    if image.mode not in ("LA", "RGBA"):  # palettes, and single values that mean transparent
        image = image.convert("RGBA")
    return pixels, np.array(image.getchannel("A"))


def _gray_float(values: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bits as float32 in [0, 1].

    Unsigned 16-bit values span 0..65535. 32-bit integers and floats do not declare their range: the smallest of 1
    (floats only), 255, 65535 and 2^31 - 1 that is not below the largest value is used.
    """
    if not np.isfinite(values).all():
        raise PictureError("the picture holds values that are not finite (NaN or infinity)")
    if values.dtype.itemsize == 2:
        return values.astype(np.float32) / np.float32(65535)
    spans = [255, 65535, 2**31 - 1] if values.dtype.kind in "iu" else [1, 255, 65535, 2**31 - 1]
    top = float(values.max())
    span = next((s for s in spans if top <= s), top)
    return np.clip(values.astype(np.float32) / np.float32(span), 0, 1)


def _exif(image: Image.Image) -> tuple[int, bytes | None]:
    """The orientation, and the EXIF block without it and without tags that only apply to the old file."""
    try:
        exif = image.getexif()
        stale = {tag: exif.pop(tag) for tag in [_ORIENTATION, *_LAYOUT_TAGS] if tag in exif}
        try:
            block = exif.tobytes() if len(exif) else None
        finally:
            exif.update(stale)  # the object belongs to the caller's image
        return stale.get(_ORIENTATION, 1), block
    except _EXIF_ERRORS:
        return 1, None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(v) for v in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e5 and 0 < y < 1e5 else None


def _extras(picture: Picture) -> dict:
    extras = {"exif": picture.exif, "icc_profile": picture.icc, "dpi": picture.dpi}
    return {name: value for name, value in extras.items() if value is not None}
