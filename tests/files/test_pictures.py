"""Reading and writing photos: every mode, metadata, bad files, full disks, memory."""

from __future__ import annotations

import errno
import io
import os
import stat

import numpy as np
import pytest
from PIL import Image, ImageCms

from seada_core.files import picture as picture_module
from seada_core.files.folders import find
from seada_core.files.pictures import Picture, PictureError, from_pil, read, to_pil, write

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
ORIENTATION = 0x0112
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


def save(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_every_mode_has_the_luminance_of_pil_and_keeps_alpha(mode, size):
    rgba = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8))
    image = {
        "P": lambda: rgba.convert("RGB").quantize(16),
        "PA": lambda: rgba.convert("RGB").quantize(16).convert("PA"),
        "CMYK": lambda: rgba.convert("RGB").convert("CMYK"),
        "1": lambda: rgba.convert("L").convert("1"),
        "La": lambda: rgba.convert("LA").convert("La"),
    }.get(mode, lambda: rgba.convert("RGB" if mode in ("YCbCr", "HSV", "RGBX") else "RGBA").convert(mode))()
    assert image.mode == mode
    picture = from_pil(image)
    straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
    assert picture.size == size
    np.testing.assert_array_equal(picture.luminance, np.array(straight.convert("RGB").convert("L")))
    if "A" in mode.upper():
        np.testing.assert_array_equal(picture.alpha, np.array(straight.convert("RGBA").getchannel("A")))
    else:
        assert picture.alpha is None


def test_palette_transparency_becomes_alpha(tmp_path):
    image = Image.fromarray(GRAY % 4).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture = read(save(image, tmp_path / "p.png", transparency=2))
    np.testing.assert_array_equal(picture.alpha, np.where(GRAY % 4 == 2, 0, 255))
    np.testing.assert_array_equal(picture.pixels[GRAY % 4 == 1], [200, 0, 0] * np.ones(((GRAY % 4 == 1).sum(), 1)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_precision(tmp_path, suffix):
    values = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    picture = read(save(Image.fromarray(values), tmp_path / f"deep{suffix}"))
    assert picture.pixels.dtype == np.float32
    np.testing.assert_array_equal(np.round(picture.luminance * 65535.0), values)
    np.testing.assert_allclose(np.asarray(to_pil(picture)), values / 257, atol=0.501)


def test_float_and_32_bit_files(tmp_path):
    unit = RNG.random((5, 7), dtype=np.float32)
    np.testing.assert_array_equal(read(save(Image.fromarray(unit), tmp_path / "f.tif")).pixels, unit)
    bytes_as_float = read(save(Image.fromarray(GRAY.astype(np.float32)), tmp_path / "b.tif")).pixels
    np.testing.assert_allclose(bytes_as_float, GRAY / 255, atol=1e-6)
    words = RNG.integers(300, 65536, (5, 7), dtype=np.int32)
    np.testing.assert_allclose(read(save(Image.fromarray(words), tmp_path / "i.tif")).pixels, words / 65535, atol=1e-6)
    unit[2, 3] = np.nan
    with pytest.raises(PictureError, match=r"nan\.tif.*not finite"):
        read(save(Image.fromarray(unit), tmp_path / "nan.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied_once_and_the_rest_kept(tmp_path, orientation, mode):
    # The eight orientations, by what a viewer does to the stored rows and columns (EXIF 2.3, tag 274).
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    stored = RGB if mode == "RGB" else GRAY.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F], exif[0x9003] = orientation, "Kodak", "1938:05:01 10:00:00"
    picture = read(save(Image.fromarray(stored), tmp_path / "turned.png", exif=exif))
    got = picture.pixels if mode == "RGB" else np.round(picture.pixels * 65535)
    np.testing.assert_array_equal(got, upright(stored))
    write(picture, tmp_path / "out.jpg")
    again = Image.open(tmp_path / "out.jpg")
    assert again.size == picture.size
    assert again.getexif()[0x010F] == "Kodak" and ORIENTATION not in again.getexif()


def test_from_pil_does_not_change_the_image(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.open(save(Image.fromarray(RGB), tmp_path / "x.jpg", exif=exif))
    assert from_pil(image).size == (5, 7) and image.size == (7, 5)
    assert image.getexif()[ORIENTATION] == 6


def test_a_damaged_exif_block_does_not_stop_a_photo(tmp_path):
    path = save(Image.fromarray(RGB), tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert read(path).size == (7, 5)


def test_a_profile_of_srgb_is_kept_and_one_for_other_pixels_ignored(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray_profile = srgb[:16] + b"GRAY" + srgb[20:]
    color = read(save(Image.fromarray(RGB), tmp_path / "c.png", icc_profile=srgb, dpi=(300, 300)))
    assert color.icc == srgb and color.dpi == pytest.approx((300, 300), abs=0.01)
    write(color.with_rgb(RGB[::-1]), tmp_path / "c.jpg")
    assert Image.open(tmp_path / "c.jpg").info["icc_profile"] == srgb
    assert Image.open(tmp_path / "c.jpg").info["dpi"] == pytest.approx((300, 300), abs=0.5)
    gray = read(save(Image.fromarray(GRAY), tmp_path / "g.png", icc_profile=srgb))  # as scanners write it
    np.testing.assert_array_equal(gray.pixels, GRAY)
    assert gray.with_rgb(RGB).icc == srgb
    write(gray, tmp_path / "again.png")
    assert "icc_profile" not in Image.open(tmp_path / "again.png").info  # grey, of a profile of colours
    inks = Image.fromarray(RGB).convert("CMYK")
    for image, profile in ((Image.fromarray(RGB), gray_profile), (inks, srgb), (Image.fromarray(GRAY), b"x" * 200)):
        found = read(save(image, tmp_path / "wrong.tif", icc_profile=profile))
        assert found.icc is None
        assert "profile" in found.notes[0]


def test_layout_tags_of_a_tiff_are_not_copied(tmp_path):
    tags = {270: "a street", 315: "W. Evans"}
    picture = read(save(Image.fromarray(GRAY), tmp_path / "a.tif", compression="tiff_lzw", tiffinfo=tags))
    for suffix in (".tif", ".jpg", ".png"):
        write(picture.with_rgb(RGB), tmp_path / f"out{suffix}")
        again = Image.open(tmp_path / f"out{suffix}")
        assert (again.mode, again.size) == ("RGB", (7, 5))
        assert again.getexif()[270] == "a street" and again.getexif()[315] == "W. Evans"
    assert 273 not in Image.open(tmp_path / "out.jpg").getexif()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".JPEG"])
def test_write_and_read_round_trip(tmp_path, suffix, data_dir):
    photo = read(data_dir / "test/kodak24/kodim23.png")
    write(photo, tmp_path / f"out{suffix}")
    error = read(tmp_path / f"out{suffix}").pixels.astype(float) - photo.pixels
    lossless = suffix in (".png", ".tif", ".tiff", ".bmp")
    assert (np.abs(error).max() == 0) if lossless else (10 * np.log10(255**2 / (error**2).mean()) > 37)
    if suffix.lower().startswith(".jp"):
        assert Image.open(tmp_path / f"out{suffix}").layer[1][1:3] == (1, 1)  # no chroma subsampling
    assert os.listdir(tmp_path) == [f"out{suffix}"]


def test_alpha_is_kept_or_composited_on_white(tmp_path):
    alpha = np.zeros((5, 7), np.uint8)
    alpha[:, 3:] = 255
    picture = Picture(RGB, alpha)
    for suffix in (".png", ".tif"):
        write(picture, tmp_path / f"a{suffix}")
        again = read(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(again.alpha, alpha)
        np.testing.assert_array_equal(again.pixels, RGB)
    write(picture, tmp_path / "a.bmp")
    expected = RGB.copy()
    expected[:, :3] = 255
    np.testing.assert_array_equal(read(tmp_path / "a.bmp").pixels, expected)
    write(Picture(GRAY, alpha), tmp_path / "g.jpg")
    assert Image.open(tmp_path / "g.jpg").mode == "L"


def test_errors_of_bad_files_are_one_line(tmp_path, data_dir):
    good = (data_dir / "test/kodak24/kodim05.png").read_bytes()
    buffer = io.BytesIO()
    Image.open(io.BytesIO(good)).save(buffer, "JPEG")
    for name, content, reason in [
        ("empty.jpg", b"", "empty"),
        ("short.png", good[: len(good) // 2], "damaged or cut short"),
        ("short.jpg", buffer.getvalue()[:9000], "damaged or cut short"),
        ("text.jpg", b"hello, I am no picture\n" * 50, "not a picture"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript, which is not read"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=reason) as caught:
            read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    for path, reason in [(tmp_path / "none.jpg", "does not exist"), (tmp_path, "is a folder")]:
        with pytest.raises(PictureError, match=reason):
            read(path)


def test_random_damage_raises_only_picture_errors(tmp_path):
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "tif", "webp", "gif", "bmp"):
        path = save(image, tmp_path / f"x.{suffix}")
        content = bytearray(path.read_bytes())
        for _ in range(15):
            broken = bytearray(content)
            for at in rng.integers(0, min(len(broken), 300), 4):
                broken[at] = rng.integers(256)
            path.write_bytes(broken[: rng.integers(1, len(broken) + 1)])
            try:
                assert isinstance(read(path), Picture)
            except PictureError as error:
                assert "\n" not in str(error)


def test_the_pixel_limit(tmp_path, monkeypatch):
    path = save(Image.fromarray(RGB), tmp_path / "x.png")
    before = Image.MAX_IMAGE_PIXELS
    for limit in (34, 16):  # over it, and over twice of it, where Pillow itself refuses
        monkeypatch.setattr(picture_module, "MAX_PIXELS", limit)
        with pytest.raises(PictureError, match="over the limit"):
            read(path)
    monkeypatch.setattr(picture_module, "MAX_PIXELS", 35)
    assert read(path).size == (7, 5)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("existing", [None, b"the old picture"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, existing):
    path = tmp_path / "out.png"
    if existing:
        path.write_bytes(existing)

    def fill(self, file, *args, **options):
        file.write(b"\x89PNG half of a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill)
    with pytest.raises(PictureError, match=r"cannot write .*out\.png: No space left on device"):
        write(Picture(RGB), path)
    assert os.listdir(tmp_path) == (["out.png"] if existing else [])
    assert not existing or path.read_bytes() == existing


def test_a_disk_that_fills_up_while_the_last_bytes_are_flushed(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PictureError, match="No space left"):
        write(Picture(RGB), tmp_path / "out.jpg")
    assert os.listdir(tmp_path) == []


def test_unwritable_paths_are_reported_before_writing(tmp_path):
    cases = {"x.xyz": "cannot write .xyz", "x": "without suffix", "no/x.png": "folder does not exist"}
    for name, reason in cases.items():
        with pytest.raises(PictureError, match=reason):
            write(Picture(RGB), tmp_path / name)
    wide = Picture(np.zeros((1, 70_000), np.uint8))
    for name in ("wide.jpg", "wide.webp"):
        with pytest.raises(PictureError, match="cannot write"):
            write(wide, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_links_and_permissions_are_those_of_an_ordinary_write(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    write(Picture(RGB), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink() and read(tmp_path / "real.png").size == (7, 5)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "real.png").stat().st_mode) == 0o666 & ~mask


def test_find_expands_folders(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "c.tif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find([tmp_path])] == ["a.png", "b.JPG", "c.tif"]
    missing = tmp_path / "missing.png"
    expected = [missing, tmp_path / "c.tif", tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find([missing, tmp_path / "c.tif", tmp_path]) == expected
    with pytest.raises(PictureError, match="no pictures in"):
        find([tmp_path / "folder.png"])


def test_recoloured_pictures_must_fit():
    with pytest.raises(ValueError, match="expected uint8"):
        Picture(GRAY).with_rgb(RGB[:4])
    with pytest.raises(ValueError, match="expected uint8"):
        Picture(GRAY).with_rgb(RGB / 255)


def test_historical_photos_match_pil(data_dir):
    for path in sorted((data_dir / "test/historical").iterdir())[:8]:
        np.testing.assert_array_equal(read(path).luminance, np.array(Image.open(path).convert("L")))
