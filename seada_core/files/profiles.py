"""Colour management: pixels of other colour spaces as sRGB, by littleCMS.

A picture is converted as a viewer shows it (perceptual intent), with 16 bits where it has them. What is sRGB already,
within two of 255 levels, stays as it is.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # levels of 255 by which profiles of sRGB differ
_GAMMA = 0.02  # of a PNG's gAMA, relative to sRGB's
_BAND = 2**20  # pixels converted at a time
_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError, struct.error)
_D50 = (0.96420288, 1.0, 0.82490540)  # white of the profiles' connection space, XYZ
_SRGB_CHROMATICITY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue: x, y each
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


class ProfileError(ValueError):
    """A colour profile that cannot be used."""


@lru_cache(maxsize=1)
def srgb() -> bytes:
    """littleCMS's sRGB profile, the same at any time of day."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + made[36:84] + bytes(16) + made[100:]  # date, and id


def space(icc: bytes) -> str:
    """The colour space of a profile's pixels: "RGB", "GRAY", "CMYK", "Lab" and so on."""
    return icc[16:20].decode("latin-1").strip()


def of(image: Any) -> bytes | None:
    """The profile of an opened picture: embedded, or made of a PNG's gamma and primaries; None for sRGB."""
    icc = image.info.get("icc_profile")
    if icc:
        return icc
    gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
    if image.format != "PNG" or not gamma or "srgb" in image.info:
        return None
    color = image.mode not in ("1", "L", "LA", "I", "I;16", "I;16B")
    given = primaries if color and primaries else _SRGB_CHROMATICITY
    same = np.allclose(given, _SRGB_CHROMATICITY, atol=0.005)
    if abs(gamma * 2.2 - 1) <= _GAMMA and same:
        return None
    return made(1 / gamma, None if not color else given)


def made(gamma: float, chromaticity: tuple[float, ...] | None) -> bytes | None:
    """A profile of a gamma, grey or with primaries; None for numbers that make no sense."""
    if not 0.1 <= gamma <= 10:
        return None
    curve = b"para" + struct.pack(">IHHi", 0, 0, 0, round(gamma * 65536))
    if chromaticity is None:
        return _profile(b"GRAY", {b"kTRC": curve})
    try:
        columns = _colorants(chromaticity)
        values = {name: b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(column * 65536).astype(int).tolist())
                  for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T)}  # fmt: skip
    except (np.linalg.LinAlgError, ZeroDivisionError, ValueError, struct.error):
        return None
    return _profile(b"RGB ", {**values, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def _colorants(chromaticity: tuple[float, ...]) -> np.ndarray:
    """XYZ of the primaries as columns, adapted to D50 by Bradford's method."""
    (wx, wy), *primaries = [chromaticity[i : i + 2] for i in (0, 2, 4, 6)]
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([wx / wy, 1, (1 - wx - wy) / wy])
    columns = columns * np.linalg.solve(columns, white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    return np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ columns


def _profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A display profile (ICC version 2.4) of these tags."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in _D50)), **tags}
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    header = struct.pack(">II", start + len(data), 0) + b"\x02\x40\0\0" + b"mntr" + kind + b"XYZ "
    header += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(v * 65536) for v in _D50))
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + data


def _tag(icc: bytes, name: bytes) -> bytes | None:
    """The content of a profile's tag."""
    (count,) = struct.unpack_from(">I", icc, 128)
    for k in range(min(count, 100)):
        found, start, length = struct.unpack_from(">4sII", icc, 132 + 12 * k)
        if found == name:
            return icc[start : start + length]
    return None


def _open(icc: bytes) -> Any:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str, out: str = "RGB") -> Any:
    """littleCMS's transform of pixels of a PIL mode to sRGB, for `ImageCms.applyTransform`."""
    target = srgb() if out == "RGB" else _profile(b"GRAY", {b"kTRC": _tag(srgb(), b"rTRC") or b""})
    # what littleCMS precomputes has 4,096 points, too few where dark tones are steep
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "I;16" else ImageCms.Flags.NONE
    try:
        return ImageCms.buildTransform(_open(icc), _open(target), mode, out, flags=flags)
    except _ERRORS as error:
        raise ProfileError(str(error)) from error


@lru_cache(maxsize=16)
def is_srgb(icc: bytes) -> bool:
    """Whether an RGB profile shows colours as sRGB does."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    transform = _transform(icc, "RGB")
    shown = [np.asarray(ImageCms.applyTransform(Image.fromarray(x), transform)).astype(int) for x in (cube, ramp)]
    return max(int(abs(x - y).max()) for x, y in zip(shown, (cube, ramp))) <= _SAME


def converted(image: Image.Image, icc: bytes | None) -> Image.Image | None:
    """A CMYK or L*a*b* image as sRGB; None if it is neither, or CMYK of an unknown profile."""
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        return ImageCms.applyTransform(image, _transform(lab, "LAB"))
    if image.mode == "CMYK" and icc is not None and space(icc) == "CMYK":
        return ImageCms.applyTransform(image, _transform(icc, "CMYK"))
    return None


def managed(pixels: np.ndarray, icc: bytes) -> tuple[np.ndarray, bytes | None]:
    """A picture's pixels, as `Picture` has them, in sRGB, and the profile that the result is to have.

    Raises ProfileError where the profile cannot be read or is not for such pixels, and for 16-bit pixels whose profile
    is a table.
    """
    kind = space(icc)
    if pixels.ndim == 2 and kind == "GRAY":
        return _looked_up(pixels, _gray_table(icc)), srgb()
    if kind != "RGB":
        raise ProfileError(f"a profile of {kind} pixels in a picture of others")
    try:
        if is_srgb(icc):
            return pixels, icc
        if pixels.ndim == 2:
            return _looked_up(pixels, _neutral_table(icc)), srgb()
        if pixels.dtype == np.uint8:
            return _bytes(pixels, icc), srgb()
        return _deep(pixels, icc), srgb()
    except _ERRORS as error:
        raise error if isinstance(error, ProfileError) else ProfileError(str(error)) from error


def _bytes(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    image = Image.fromarray(pixels)
    ImageCms.applyTransform(image, _transform(icc, "RGB"), inPlace=True)
    return np.array(image)


def _ramp() -> Image.Image:
    return Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))


@lru_cache(maxsize=8)
def _gray_table(icc: bytes) -> np.ndarray:
    """sRGB's grey in [0, 1] for each 16-bit value of a grey profile."""
    shown = ImageCms.applyTransform(_ramp(), _transform(icc, "I;16", "I;16"))
    return np.asarray(shown).ravel().astype(np.float32) / 65535


@lru_cache(maxsize=8)
def _neutral_table(icc: bytes) -> np.ndarray:
    """The same for equal values of an RGB profile."""
    curve = _tag(icc, b"gTRC")
    if curve is not None and _tag(icc, b"A2B0") is None:
        return _gray_table(_profile(b"GRAY", {b"kTRC": curve}))
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    shown = _bytes(ramp, icc)[0] @ np.array([0.299, 0.587, 0.114])
    return np.interp(np.arange(65536) / 257, np.arange(256), shown / 255).astype(np.float32)


def _looked_up(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.round(table[::257] * 255).astype(np.uint8)[pixels]
    return np.interp(pixels, np.linspace(0, 1, len(table), dtype=np.float32), table).astype(np.float32)


def _deep(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """uint16 RGB `(H, W, 3)` of a profile of curves and a matrix as sRGB."""
    columns = [_tag(icc, name) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    curves = [_tag(icc, name) for name in (b"rTRC", b"gTRC", b"bTRC")]
    if None in columns or None in curves or _tag(icc, b"A2B0") is not None:
        raise ProfileError("a profile that is a table, of which 16 bits cannot be converted")
    own = np.array([struct.unpack_from(">3i", column, 8) for column in columns]).T  # type: ignore[arg-type]
    ours = np.array([struct.unpack_from(">3i", _tag(srgb(), name), 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]).T  # type: ignore[arg-type]
    matrix = (np.linalg.inv(ours / 65536) @ (own / 65536)).astype(np.float32)
    tables = [_linear(_gray_table(_profile(b"GRAY", {b"kTRC": curve}))) for curve in curves]  # type: ignore[dict-item]
    flat, result = pixels.reshape(-1, 3), np.empty(pixels.shape, np.uint16)
    out = result.reshape(-1, 3)
    for start in range(0, len(flat), _BAND):
        linear = np.stack([table[flat[start : start + _BAND, k]] for k, table in enumerate(tables)], -1)
        mixed = np.clip(linear @ matrix.T, 0, 1)
        out[start : start + _BAND] = np.round(_encoded(mixed) * 65535)
    return result


def _linear(encoded: np.ndarray) -> np.ndarray:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
