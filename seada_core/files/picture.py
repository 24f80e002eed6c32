"""A photo in memory: a `Picture`, from PIL and to it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ..errors import reason
from . import depth, metadata, profiles, repair
from .metadata import Metadata
from .sixteen_bit import join

MAX_PIXELS = 200_000_000  # of a picture, unless overridden by the environment or the caller
LIMIT_VARIABLE = "SEADA_MAX_MEGAPIXELS"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """A picture that cannot be read or written; the one-line message names the file, the reason and what to do."""


@dataclass(frozen=True)
class Picture:
    """A photo, upright, in sRGB.

    `pixels`: uint8 or uint16 RGB `(H, W, 3)`, uint8 grey `(H, W)`, or float32 grey `(H, W)` in [0, 1] from 16-bit or
    float files. `alpha`: uint8 or uint16 `(H, W)`. `exif` carries no orientation. `icc` is a profile of sRGB, of a
    photo that had one of any space. `dpi` is (x, y). `xmp` is a packet, `iptc` are IIM records, `texts` a PNG's texts
    and other formats' comments. `lossless`: the file is a WebP without loss. `pages`: pictures in the file. `notes`:
    what was assumed when it was read, in words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    lossless: bool = False
    pages: int = 1
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width, height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits a channel."""
        return self.pixels.dtype != np.uint8

    @cached_property
    def luminance(self) -> np.ndarray:
        """BT.601 luma `(H, W)`: uint8 (PIL's "L"), or float32 in [0, 1] where the file has more than 8 bits."""
        if self.pixels.ndim == 2:
            return self.pixels
        if self.is_deep:
            return self.pixels @ np.array([0.299, 0.587, 0.114], np.float32) / np.float32(65535)
        return np.asarray(Image.fromarray(self.pixels).convert("L"))

    def with_rgb(self, rgb: np.ndarray) -> Picture:
        """The same photo with other colours, uint8 or uint16 `(H, W, 3)`; all else is kept.

        Raises ValueError if the size differs.
        """
        if rgb.shape != (*self.pixels.shape[:2], 3) or rgb.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected uint8 or uint16 {(*self.pixels.shape[:2], 3)}, got {rgb.dtype} {rgb.shape}")
        return replace(self, pixels=rgb)

    @property
    def metadata(self) -> Metadata:
        """EXIF, XMP, IPTC and texts."""
        return Metadata(self.exif, self.xmp, self.iptc, self.texts)


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


def check_size(size: tuple[int, int], limit: int | None) -> None:
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


def from_pil(image: Image.Image, limit: int | None = None) -> Picture:
    """A `Picture` of a PIL image of any mode, converted to sRGB where it has another profile.

    Raises PictureError over the pixel limit, and for values whose meaning is not known, see `depth.gray`.
    """
    check_size(image.size, limit)
    if image.format == "PSD" and _has_no_composite(image):
        raise PictureError("the PSD holds only its layers: save it with maximum compatibility, or as TIFF")
    notes: list[str] = []
    scale, icc, dpi = depth.declared(image), profiles.of(image), metadata.resolution(image)
    lossless = image.format == "WEBP" and repair.is_lossless_webp(getattr(image, "fp", None))
    image.load()
    carried = metadata.read(image)
    orientation, exif = metadata.exif_of(image)
    image, icc = _converted(image, icc, notes)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    pixels, alpha = _pixels(image, scale)
    pixels, icc = _managed(pixels, icc, notes)
    return Picture(
        *(pixels, alpha, exif, icc, dpi, carried.xmp, carried.iptc, carried.texts),
        lossless=lossless,
        notes=tuple(notes),
    )


def _has_no_composite(image: Any) -> bool:
    version = next((data for number, _, data in image.resources if number == 1057), b"")
    return version[4:5] == b"\0"


def _converted(image: Image.Image, icc: bytes | None, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """CMYK and L*a*b* as sRGB, with its profile; other images unchanged."""
    try:
        found = profiles.converted(image, icc)
    except profiles.ProfileError as error:
        notes.append(f"its colour profile cannot be used and is ignored ({reason(error)})")
        found = None
    if found is not None:
        return found, profiles.srgb()
    if image.mode == "CMYK":
        notes.append("CMYK without a profile that can be used: its tones are a guess")
        return image.convert("RGB"), None
    return image, icc


def _managed(pixels: np.ndarray, icc: bytes | None, notes: list[str]) -> tuple[np.ndarray, bytes | None]:
    """Pixels in sRGB, and the profile of the result; a profile that cannot be used is ignored with a note."""
    if icc is None:
        return pixels, None
    try:
        return profiles.managed(pixels, icc)
    except profiles.ProfileError as error:
        notes.append(f"its colour profile cannot be used and is ignored ({reason(error)})")
        return pixels, None


def _pixels(image: Image.Image, scale: depth.Scale) -> tuple[np.ndarray, np.ndarray | None]:
    if image.mode.startswith("I") or image.mode == "F":
        alpha = None
        key = image.info.get("transparency")
        values = np.asarray(image)
        if isinstance(key, int):
            alpha = np.where(values == key, 0, 255).astype(np.uint8)
        try:
            return depth.gray(values, scale), alpha
        except ValueError as error:
            raise PictureError(str(error)) from None
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode[:-1] + "A")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    pixels = np.array(image.convert(mode))
    if not image.has_transparency_data:
        return pixels, None
    if image.mode not in ("LA", "RGBA"):  # palettes, and single values that mean transparent
        image = image.convert("RGBA")
    return pixels, np.array(image.getchannel("A"))


def deep_picture(high: Image.Image, low: Image.Image) -> Picture:
    """The `Picture` of a file's high and low bytes, see `sixteen_bit.load`."""
    carried, icc, dpi = metadata.read(high), profiles.of(high), metadata.resolution(high)
    orientation, exif = metadata.exif_of(high)
    if orientation in _UPRIGHT:
        high, low = (image.transpose(_UPRIGHT[orientation]) for image in (high, low))
    notes: list[str] = []
    values, alpha = join(high, low), None
    key = high.info.get("transparency")
    if high.mode in ("LA", "RGBA"):
        values, alpha = values[..., :-1], np.ascontiguousarray(values[..., -1])
    elif isinstance(key, tuple):
        alpha = np.where((values == np.array(key)).all(-1), 0, 65535).astype(np.uint16)
    if high.mode == "LA":
        pixels = values[..., 0].astype(np.float32) / np.float32(65535)
    else:
        pixels = np.ascontiguousarray(values)
    pixels, icc = _managed(pixels, icc, notes)
    return Picture(*(pixels, alpha, exif, icc, dpi, carried.xmp, carried.iptc, carried.texts), notes=tuple(notes))


def to_pil(picture: Picture) -> Image.Image:
    """An 8-bit PIL image, mode L, LA, RGB or RGBA, whose `info` holds EXIF, ICC profile and resolution."""
    image = Image.fromarray(eight_bits(picture.pixels))
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(eight_bits(picture.alpha)))
    extras = {"exif": picture.exif, "icc_profile": profile(picture), "dpi": picture.dpi}
    image.info.update({name: value for name, value in extras.items() if value is not None})
    return image


def profile(picture: Picture) -> bytes | None:
    """The profile, if its colour space matches the pixels."""
    kind = "RGB" if picture.pixels.ndim == 3 else "GRAY"
    return picture.icc if picture.icc and profiles.space(picture.icc) == kind else None


def eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of uint8, uint16, or floats in [0, 1]."""
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return values if values.dtype == np.uint8 else np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
