"""Which value is black and which is white, of files with more than 8 bits."""

import io
import struct

import numpy as np
import pytest
from archive_files import packed_12_bits, ramp, tiff_bytes
from PIL import Image

from seada_core.files.pictures import PictureError, read_bytes

UNIT = ramp() / np.float32(255)


def luminance(content: bytes) -> np.ndarray:
    picture = read_bytes(content, "deep")
    return picture.luminance / (255 if picture.pixels.dtype == np.uint8 else 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", "<>")
def test_white_is_zero(dtype, order):
    values = np.round(UNIT * np.iinfo(dtype).max).astype(dtype)
    inverted = np.iinfo(dtype).max - values
    for content, photometric in ((values, "minisblack"), (inverted, "miniswhite")):
        found = luminance(tiff_bytes(content, photometric=photometric, byteorder=order))
        assert np.abs(found - UNIT).max() < (2e-3 if dtype == np.uint8 else 2e-5)


def test_packed_12_bits_span_to_white():
    values = np.round(UNIT * 4095).astype(np.uint16)
    np.testing.assert_allclose(luminance(packed_12_bits(values)), values / 4095, atol=1e-6)


@pytest.mark.parametrize("top", [1.0, 1.2, 3.0, 40.0])
def test_floats_above_white_are_clipped(top):
    values = UNIT * np.float32(0.9)
    values[:2, :5] = top
    np.testing.assert_allclose(luminance(tiff_bytes(values)), np.minimum(values, 1), atol=1e-6)


@pytest.mark.parametrize("white", [255, 65535])
def test_floats_that_span_more(white):
    np.testing.assert_allclose(luminance(tiff_bytes(UNIT * np.float32(white))), UNIT, atol=1e-6)


def test_32_bit_integers():
    values = np.round(UNIT.astype(float) * (2**32 - 1)).astype(np.uint32)
    for order in "<>":
        np.testing.assert_allclose(luminance(tiff_bytes(values, byteorder=order)), UNIT, atol=1e-6)
    np.testing.assert_allclose(luminance(tiff_bytes((values // 2).astype(np.int32))), UNIT, atol=1e-6)
    np.testing.assert_allclose(luminance(tiff_bytes((values // 2**16).astype(np.uint32))), UNIT, atol=1e-4)


def test_a_16_bit_pgm_that_is_dark_stays_dark():
    values = np.round(UNIT * 200).astype(">u2")
    content = b"P5 64 40 65535\n" + values.tobytes()
    np.testing.assert_allclose(luminance(content), values.astype(float) / 65535, atol=1e-6)


REFUSED = {
    "24 bits in 32": (np.round(UNIT.astype(float) * 2**24).astype(np.uint32), "does not say which is white"),
    "negative": ((UNIT * 60000 - 30000).astype(np.int16), "negative values"),
    "float negative": (UNIT * 2 - 1, "negative values"),
    "float of millions": (UNIT * np.float32(5e6), "does not say which is white"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_a_guess_is_refused(name):
    values, says = REFUSED[name]
    with pytest.raises(PictureError, match=f"^deep: the picture.*{says}.*save it with 16 bits"):
        read_bytes(tiff_bytes(values), "deep")


def test_layouts_that_are_not_read_are_named():
    values = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(PictureError, match=r"deep is a TIFF of 3 x 32 bits, floating-point.*save it with 8 or 16 bits"):
        read_bytes(tiff_bytes(values, photometric="rgb"), "deep")
    with pytest.raises(PictureError, match=r"deep is a TIFF of 1 x 64 bits, floating-point"):
        read_bytes(tiff_bytes(np.zeros((8, 8)), photometric="minisblack"), "deep")


@pytest.mark.parametrize("tag", [258, 262, 277])
def test_a_damaged_layout_does_not_fill_the_message(tag):
    """A tag whose type says that it is text, and whose count that all of the file is."""
    content = bytearray(tiff_bytes(np.zeros((8, 8)), photometric="minisblack"))
    at = content.index(struct.pack("<HH", tag, 3))
    content[at : at + 12] = struct.pack("<HHII", tag, 7, len(content) - 8, 8)
    with pytest.raises(PictureError) as error:
        read_bytes(bytes(content), "damaged")
    assert len(str(error.value)) < 300


def test_a_turned_one_keeps_its_scale():
    values = 65535 - np.round(UNIT * 65535).astype(np.uint16)
    content = tiff_bytes(values, photometric="miniswhite", extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_allclose(luminance(content), np.rot90(UNIT, -1), atol=1e-5)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    np.testing.assert_allclose(luminance(file.getvalue()), 1 - UNIT, atol=1e-5)
