"""Tone and colours of files with profiles, as a colour-managed viewer shows them."""

import io
import struct
import zlib

import numpy as np
import pytest
from archive_files import colors, gray_profile, ramp, rgb_profile, shown, tiff_bytes
from PIL import Image, ImageCms
from skimage.color import rgb2lab

from seada_core.files import pictures, profiles
from seada_core.files.pictures import read_bytes


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def lightness(gray: np.ndarray) -> np.ndarray:
    return rgb2lab(np.repeat(np.asarray(gray, float)[..., None], 3, -1))[..., 0]


@pytest.mark.parametrize("gamma", [1.0, 1.4, 1.8, 2.2])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_tone_of_a_grey_profile(gamma, kind):
    icc = gray_profile(gamma)
    content = encoded(Image.fromarray(ramp()), kind, icc_profile=icc)
    picture = read_bytes(content, "g")
    tone = shown(Image.open(io.BytesIO(content)))[..., 0]
    assert np.abs(lightness(picture.luminance / 255) - tone).mean() < 0.3
    assert picture.notes == () and picture.icc == profiles.srgb()


def test_16_bit_grey_of_a_profile_keeps_its_16_bits():
    values = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    picture = read_bytes(
        tiff_bytes(values, extratags=[(34675, 7, len(gray_profile(1.8)), gray_profile(1.8), True)]), "g"
    )
    linear = (values / 65535) ** 1.8  # the definition of gamma 1.8, then sRGB's curve
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(picture.luminance - wanted).max() < 4 / 65535
    assert len(np.unique(picture.luminance)) > 4000


@pytest.mark.parametrize("name", ["adobe", "p3", "prophoto"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_one_picture_in_several_spaces_is_one_picture(name, kind):
    wide, srgb = rgb_profile(name), ImageCms.createProfile("sRGB")
    photo = Image.fromarray(colors())
    converted = ImageCms.profileToProfile(photo, srgb, ImageCms.ImageCmsProfile(io.BytesIO(wide)), outputMode="RGB")
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    picture = read_bytes(encoded(converted, kind, icc_profile=wide, **options), "w")
    difference = np.abs(rgb2lab(picture.pixels) - rgb2lab(colors()))
    assert difference.mean() < 0.6 and np.percentile(difference[..., 0], 99) < 3
    assert profiles.space(picture.icc) == "RGB" and profiles.is_srgb(picture.icc)


@pytest.mark.parametrize("name", ["adobe", "prophoto"])
def test_16_bit_colours_of_a_profile_keep_their_16_bits(name):
    gamma = {"adobe": 2.19921875, "prophoto": 1.8}[name]
    gray = np.linspace(0.01, 1, 2000)  # of greys every primary's matrix is the identity
    values = np.round(gray * 65535).astype(np.uint16)[:, None, None].repeat(3, 2).reshape(40, 50, 3)
    content = tiff_bytes(
        values, photometric="rgb", extratags=[(34675, 7, len(rgb_profile(name)), rgb_profile(name), True)]
    )
    picture = read_bytes(content, "w")
    linear = (values[..., 0] / 65535) ** gamma
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.luminance - wanted).max() < 30 / 65535
    # and colours agree with littleCMS's 8 bits
    photo = colors()
    deep = tiff_bytes(photo.astype(np.uint16) * 257, photometric="rgb",
                      extratags=[(34675, 7, len(rgb_profile(name)), rgb_profile(name), True)])  # fmt: skip
    eight = read_bytes(encoded(Image.fromarray(photo), icc_profile=rgb_profile(name)), "w").pixels
    assert np.abs(read_bytes(deep, "w").pixels / 257 - eight).max() < 1.1


def test_cmyk_goes_through_its_profile(data_dir):
    path = data_dir / "test/files/cmyk-icc.jpg"
    tone = shown(Image.open(path))
    found = rgb2lab(pictures.read(path).pixels)
    assert np.abs(found - tone).mean() < 0.3
    naive = rgb2lab(np.asarray(Image.open(path).convert("RGB")))
    assert np.abs(naive - tone).mean() > 3  # so that the profile matters here
    plain = read_bytes(encoded(Image.open(path), "TIFF", icc_profile=None), "k")
    assert "CMYK without a profile that can be used" in plain.notes[0]


def test_lab_files_are_read():
    lab = ImageCms.profileToProfile(
        Image.fromarray(colors()), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    picture = read_bytes(encoded(lab, "TIFF"), "lab")
    assert np.abs(rgb2lab(picture.pixels) - rgb2lab(colors())).mean() < 1


def png_with(values: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG with chunks in front of its data."""
    content = encoded(Image.fromarray(values))
    extra = b"".join(
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in chunks.items()
    )
    return content[:33] + extra + content[33:]


@pytest.mark.parametrize("gamma", [1.0, 0.5556, 0.45455, 0.37])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_pngs_gamma_is_applied(gamma, dtype):
    values = ramp().astype(dtype) * (257 if dtype == np.uint16 else 1)
    picture = read_bytes(png_with(values, gAMA=struct.pack(">I", round(gamma * 1e5))), "g")
    linear = (ramp() / 255) ** (1 / gamma)
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    if gamma == 0.45455:  # what programs write for sRGB
        wanted = ramp() / 255
    shade = picture.luminance / (255 if picture.pixels.dtype == np.uint8 else 1)
    assert np.abs(lightness(shade) - lightness(wanted)).max() < 0.6
    plain = read_bytes(png_with(values, gAMA=struct.pack(">I", round(gamma * 1e5)), sRGB=b"\0"), "g")
    np.testing.assert_array_equal(plain.luminance, read_bytes(encoded(Image.fromarray(values)), "g").luminance)


def test_a_pngs_primaries_are_applied():
    adobe = [0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06]
    chunk = b"".join(struct.pack(">I", round(v * 1e5)) for v in adobe)
    photo = np.clip(colors().astype(int), 30, 220).astype(np.uint8)
    found = read_bytes(png_with(photo, gAMA=struct.pack(">I", 45455), cHRM=chunk), "c").pixels
    wanted = read_bytes(encoded(Image.fromarray(photo), icc_profile=rgb_profile("adobe")), "c").pixels
    assert np.abs(found.astype(int) - wanted).max() <= 2
    assert np.abs(rgb2lab(found) - rgb2lab(photo))[..., 1:].max() > 5


def test_our_profile_is_srgb_whatever_the_time():
    first = profiles.srgb()
    profiles.srgb.cache_clear()
    assert profiles.srgb() == first and profiles.is_srgb(first) and not profiles.is_srgb(rgb_profile("p3"))


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"\0" * 200, rgb_profile("p3")[:150], gray_profile(2.2)[:140]])
def test_a_damaged_profile_does_not_stop_a_photo(content):
    picture = read_bytes(encoded(Image.fromarray(colors()), "TIFF", icc_profile=content), "x")
    np.testing.assert_array_equal(picture.pixels, colors())
    assert picture.icc is None
