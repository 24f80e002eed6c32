"""Scans of 16 bits a channel: what is read and written is what other libraries read and write, and luminance stays."""

import io
import os

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from seada_core.color import merging
from seada_core.files import formats, pictures, sixteen_bit, tiff
from seada_core.files.metadata import Metadata
from seada_core.files.pictures import Picture, PictureError

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 65536, (97, 53, 4), dtype=np.uint16)
WEIGHTS = np.array([0.299, 0.587, 0.114])


def png(path) -> np.ndarray:
    """A PNG's own 16-bit samples (H, W, C), by pypng."""
    from png import Reader

    width, height, rows, _ = Reader(filename=str(path)).read()
    return np.vstack([np.asarray(row) for row in rows]).reshape(height, width, -1)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", "<>")
def test_tiffs_of_other_programs(tmp_path, channels, compression, order):
    values, extra = VALUES[..., :channels], ["unassalpha"] if channels == 4 else None
    options = {"photometric": "rgb", "compression": compression, "byteorder": order, "extrasamples": extra}
    tifffile.imwrite(tmp_path / "scan.tif", values, **options, rowsperstrip=20)
    picture = pictures.read(tmp_path / "scan.tif")
    assert picture.is_deep and picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, values[..., :3])
    np.testing.assert_allclose(picture.luminance, values[..., :3] @ WEIGHTS / 65535, atol=2e-7)
    if channels == 4:
        np.testing.assert_array_equal(picture.alpha, values[..., 3])
    planes = np.moveaxis(values, -1, 0).copy()
    tifffile.imwrite(tmp_path / "planes.tif", planes, **options, planarconfig="separate")
    with pytest.raises(PictureError, match=r"planes\.tif: its 16-bit channels lie in separate planes"):
        pictures.read(tmp_path / "planes.tif")


def test_grey_with_alpha_keeps_both(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = VALUES[..., :2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 4, 0, 0, 0)
    (tmp_path / "la.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    picture = pictures.read(tmp_path / "la.png")
    np.testing.assert_array_equal(np.round(picture.luminance * 65535.0), values[..., 0])
    np.testing.assert_array_equal(picture.alpha, values[..., 1])


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_other_programs_read_written_files(tmp_path, suffix, alpha):
    exif = Image.Exif()
    exif[0x010F], exif[0x9003] = "Kodak", "1938:05:01 10:00:00"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a street"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"out{suffix}"
    pictures.write(
        Picture(VALUES[..., :3], VALUES[..., 3] if alpha else None, exif.tobytes(), icc, (300.0, 200.0)), path
    )
    theirs = png(path) if suffix == ".png" else tifffile.imread(path)
    np.testing.assert_array_equal(theirs, VALUES[..., : 3 + alpha])
    with Image.open(path) as image:
        assert image.info["icc_profile"] == icc
        assert image.info["dpi"] == pytest.approx((300, 200), abs=0.01)
        tags = image.getexif()
        assert tags[0x010F] == "Kodak" and tags.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0a street"
        image.load()
        np.testing.assert_array_equal(np.asarray(image)[..., :3], VALUES[..., :3] >> 8)
    again = pictures.read(path)
    np.testing.assert_array_equal(again.pixels, VALUES[..., :3])
    assert (again.alpha is None) is not alpha and os.listdir(tmp_path) == [path.name]


def test_8_bit_formats_get_the_nearest_values(tmp_path):
    pictures.write(Picture(VALUES[..., :3], VALUES[..., 3]), tmp_path / "out.webp")
    pictures.write(Picture(VALUES[..., :3]), tmp_path / "out.bmp")
    nearest = np.round(VALUES[..., :3] / 257)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.bmp")), nearest)
    assert [pictures.holds_16_bits(f"x{suffix}") for suffix in (".png", ".TIFF", ".jpg", ".xyz")] == [1, 1, 0, 0]


def test_merging_keeps_the_luminance_of_a_16_bit_scan():
    gray = (np.arange(65536, dtype=np.float32) / 65535).reshape(256, 256)
    chroma = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0)) - 0.5
    rgb = merging.merge_tiled(chroma, gray, dtype=np.uint16)
    assert rgb.dtype == np.uint16 and np.ptp(rgb.astype(int), axis=-1).max() > 20_000
    np.testing.assert_array_equal(np.round(rgb @ WEIGHTS).ravel(), np.arange(65536))
    whole = merging.merge_chroma(chroma[None], torch.from_numpy(gray)[None, None])[0].movedim(0, -1)
    assert np.abs(rgb / 65535 - whole.numpy()).max() < 3 / 65535
    np.testing.assert_array_equal(rgb, merging.merge_tiled(chroma, gray, tile=60, dtype=np.uint16))


@pytest.mark.parametrize("batch", [1, 2])
def test_the_command_keeps_16_bits(tmp_path, tiny_model, batch, capsys):
    from seada_core.colorize.__main__ import main

    scan = RNG.integers(0, 65536, (40, 48), dtype=np.uint16)
    (tmp_path / "scans").mkdir()
    Image.fromarray(scan).save(tmp_path / "scans" / "gray.png")
    Image.fromarray(scan).save(tmp_path / "scans" / "gray.tif")
    tifffile.imwrite(tmp_path / "scans" / "color.tif", VALUES[:40, :48, :3], photometric="rgb")
    common = ["--model", str(tiny_model), "--steps", "1", "--prompt", "a dog"]
    assert main([str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "--batch", str(batch), *common]) == 0
    for name in ("gray.png", "gray.tif"):
        result = png(tmp_path / "out" / name) if name.endswith("png") else tifffile.imread(tmp_path / "out" / name)
        assert result.dtype == np.uint16 and np.ptp(result.astype(int), axis=-1).max() > 500
        np.testing.assert_array_equal(np.round(result @ WEIGHTS), scan)
    error = tifffile.imread(tmp_path / "out" / "color.tif") @ WEIGHTS - VALUES[:40, :48, :3] @ WEIGHTS
    assert np.abs(error).max() <= 0.5
    assert "8 of its 16 bits" not in capsys.readouterr().err
    assert main([str(tmp_path / "scans" / "gray.png"), "-o", str(tmp_path / "a.jpg"), *common]) == 0
    assert "gray.png: .jpg holds 8 of its 16 bits; write .png or .tif" in capsys.readouterr().err
    sheet = tmp_path / "sheet.png"
    assert main([str(tmp_path / "scans" / "gray.png"), "-o", str(sheet), "--variants", "2", *common]) == 0
    assert png(tmp_path / "sheet-seed1.png").dtype == np.uint16 and Image.open(sheet).mode == "RGB"


# --- the limit on pixels ----------------------------------------------------------------------------------------------


def bomb(kind: str, side: int) -> bytes:
    """A small file of a black square picture."""
    file = io.BytesIO()
    if kind in ("16-bit PNG", "16-bit TIFF"):
        write = sixteen_bit.write_png if kind == "16-bit PNG" else tiff.write
        write(file, np.zeros((side, side, 3), np.uint16), Metadata(), None, None)
        return file.getvalue()
    options = {"TIFF": {"compression": "tiff_adobe_deflate"}}.get(kind, {})
    Image.new("L" if kind != "GIF" else "P", (side, side)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "JPEG", "WEBP", "16-bit PNG", "16-bit TIFF"])
def test_bombs_are_refused_with_their_size_and_the_option_that_allows_more(kind, monkeypatch):
    encoded = bomb(kind, 2000)
    formats.formats()  # importing Pillow's formats decodes something
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    monkeypatch.setenv("SEADA_MAX_MEGAPIXELS", "0.5")
    message = r"bomb: the picture is 2000 x 2000, 4 megapixels, over the limit of 0.5; .*--max-megapixels 4 or SEADA"
    with pytest.raises(PictureError, match=message):
        pictures.read_bytes(encoded, "bomb")
    with pytest.raises(PictureError, match="over the limit of 3"):
        pictures.read_bytes(encoded, "bomb", 3_000_000)
    monkeypatch.undo()
    monkeypatch.setenv("SEADA_MAX_MEGAPIXELS", "4")
    assert pictures.read_bytes(encoded, "bomb").size == (2000, 2000)
    for text in ("many", "-3", "nan", "inf"):
        monkeypatch.setenv("SEADA_MAX_MEGAPIXELS", text)
        with pytest.raises(PictureError, match=r"SEADA_MAX_MEGAPIXELS is .* expected a number of megapixels"):
            pictures.read_bytes(encoded, "bomb")


def test_the_commands_option_allows_more_and_less(tmp_path, tiny_model, capsys):
    from seada_core.colorize.__main__ import main

    Image.new("L", (60, 50), 90).save(tmp_path / "a.png")
    command = [str(tmp_path / "a.png"), "--model", str(tiny_model), "--steps", "1", "--prompt", "", "--max-megapixels"]
    assert main([*command, "0.0029"]) == 1
    assert "a.png: the picture is 60 x 50, 0.003 megapixels, over the limit of 0.0029" in capsys.readouterr().err
    assert main([*command, "0.003"]) == 0
    assert main([*command, "nan"]) == 2
