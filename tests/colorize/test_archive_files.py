"""The command on files of archives: what each kind becomes, and what is said of it."""

import contextlib
import io
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from archive_files import colors, ramp, shown
from command import scene
from PIL import Image

from seada_core.files import formats, pictures

JPEG_END = b"\xff\xd9"


@pytest.fixture
def files(data_dir) -> Path:
    folder = data_dir / "test" / "files"
    if not folder.is_dir():
        pytest.skip("no test files of archives")
    return folder


def lightness(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return shown(image)[..., 0]


# file: what its result has to be like: suffix, notice, what is kept, and how far lightness (L*) may differ in the mean
KEPT = ("exif", "xmp", "iptc")
EXPECTED = {
    "ifd-exif.tif": {"keeps": ("exif",)},
    "meta.jpg": {"keeps": KEPT},
    "meta16.tif": {"keeps": KEPT},
    "mw16.tif": {},
    "pages3.tif": {"says": "the first of 3 pictures in the file; --pages all takes each"},
    "grey-dotgain20.jpg": {"tone": (1.0, 3.0)},
    "cmyk-icc.jpg": {"tone": (1.5, 6.0)},  # of colours: grey of an equal luma has another lightness
    "hay-prophoto.png": {"tone": (1.0, 3.0)},
    "hay-srgb.png": {"tone": (1.0, 3.0)},
    "bigtiff8.tif": {},
    "f32-over.tif": {},
    "g4.tif": {"says": "it has black and white dots alone, which hold no colour"},
    "noeoi.jpg": {"says": "its end marker is missing, all lines are there"},
    "heic-renamed.jpg": {},
    "iphone.heic": {"suffix": ".png"},
    "flat.psd": {"suffix": ".png"},
    "webp-lossless.webp": {"tone": (0.1, 1.0)},
    "white-frame.jpg": {"says": "it shows a photo in a frame, which is coloured as if it were alone"},
    "dark-lid.jpg": {"says": "it shows a photo in a frame"},
    "album-page.jpg": {"says": "it shows 4 photos on a page"},
}


@pytest.fixture(scope="module")
def colored(data_dir, tiny_model, tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """The files of `EXPECTED`, the folder of their results, and what was said: one run of one model for all."""
    from seada_core.colorize.__main__ import main

    folder = tmp_path_factory.mktemp("archive")
    source, target, said = folder / "in", folder / "out", io.StringIO()
    source.mkdir()
    for name in EXPECTED:
        shutil.copy(data_dir / "test" / "files" / name, source / name)
    arguments = [str(source), "-o", str(target), "--model", str(tiny_model), "--device", "cpu"]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        assert main([*arguments, "--steps", "1", "--saturation", "0", "--prompt", "x"]) == 0
    return source, target, said.getvalue().splitlines()


@pytest.mark.parametrize("name", EXPECTED)
def test_each_file_becomes_what_is_expected(files, colored, name):
    wanted, source = EXPECTED[name], colored[0] / name
    result = colored[1] / source.with_suffix(wanted.get("suffix", source.suffix)).name
    usual = "has colours already, which are replaced", "was trained with English texts"
    err = [line for line in colored[2] if name in line and not any(text in line for text in usual)]
    assert wanted.get("says", "") in " ".join(err) and (not err or "says" in wanted)
    before, after = pictures.read(source), pictures.read(result)
    assert after.size == before.size
    for kept in wanted.get("keeps", ()):
        assert getattr(before, kept) and getattr(after, kept)
    if wanted.get("keeps"):
        assert after.xmp == before.xmp and after.iptc == before.iptc
    if "tone" in wanted:
        error = np.abs(lightness(result) - lightness(source))
        assert error.mean() < wanted["tone"][0] and np.percentile(error, 99) < wanted["tone"][1]
    if before.is_deep:
        assert after.is_deep
        assert np.abs(after.luminance - before.luminance).max() < 1 / 65535
    if before.lossless:
        assert after.lossless


def test_tones_that_a_viewer_shows(files):
    """16-bit white-is-zero and floats above white, against the same photo in 8 bits."""
    plain = pictures.read(files / "bigtiff8.tif").luminance / 255
    assert np.corrcoef(pictures.read(files / "mw16.tif").luminance.ravel(), plain.ravel())[0, 1] > 0.99
    found = pictures.read(files / "f32-over.tif").luminance
    assert np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.95 and 0.3 < found.mean() < 0.6
    prophoto, srgb = (pictures.read(files / f"hay-{name}.png").pixels.astype(int) for name in ("prophoto", "srgb"))
    assert np.abs(prophoto - srgb).mean() < 1.5


@pytest.mark.parametrize("name", ["iphone.heic", "scan.pdf"])
def test_what_is_not_read_is_named_with_the_way_out(run, files, tmp_path, name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    formats.formats.cache_clear()
    monkeypatch.setattr(formats.Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    try:
        for renamed in (name, f"{Path(name).stem}.jpg"):
            shutil.copy(files / name, tmp_path / renamed)
            status, out, err = run(tmp_path / renamed)
            assert (status, out, len(err)) == (1, [], 1)
            assert renamed in err[0] and "which is not read: " in err[0]
            assert ("pillow-heif" if "heic" in name else "pdfimages") in err[0]
    finally:
        formats.formats.cache_clear()


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_counts_what_it_skips(tiny_model, tmp_path, capfd):
    from seada_core.colorize.__main__ import main

    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    scene().save(folder / "a.png")
    scene().save(folder / "sub" / "b.png")
    for name in ("1.pdf", "2.PDF", "x.jxl", "x.dng", "notes.txt", ".hidden.pdf"):
        (folder / name).write_bytes(b"%PDF")
    (folder / "bad.jpg").write_bytes(b"no picture")
    os.symlink(tmp_path / "elsewhere", folder / "link")
    os.symlink(tmp_path / "nowhere.jpg", folder / "broken.jpg")
    common = ["--model", str(tiny_model), "--steps", "1", "--prompt", "x"]
    assert main([str(folder), "-o", str(tmp_path / "out"), *common]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith(
        "1 coloured, 8 skipped (2 .pdf, 2 folders, 1 .dng, 1 .jxl, 1 .txt, 1 broken link), 1 failed (listed in "
    )
    notes = [line for line in lines if line.startswith("note: ")]
    assert any("2 .pdf, such as" in line and "pdfimages" in line for line in notes)
    assert any("1 .dng" in line and "rawpy" in line for line in notes)
    assert any("use --recursive" in line for line in notes) and not any(".txt" in line for line in notes)
    assert main([str(folder), "-r", "-o", str(tmp_path / "out2"), *common]) == 1
    assert "2 coloured, 7 skipped (2 .pdf, 1 .dng, 1 .jxl, 1 .txt, 1 broken link, 1 linked folder), 1 failed" in (
        capfd.readouterr().err
    )


def test_a_folder_of_other_files_alone(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(b"%PDF")
    status, out, err = run(tmp_path / "in", "-o", tmp_path / "out")
    assert (status, out) == (1, [])
    assert any(line.startswith("error: no pictures in ") and line.endswith("it has 1 .pdf") for line in err)


@pytest.mark.parametrize("suffix", [".mpo", ".jif", ".jpf", ".jpx", ".heif", ".psd"])
def test_suffixes_that_folders_used_to_skip(suffix):
    assert suffix in pictures.SUFFIXES and suffix not in formats.FOREIGN


def preview_of_raw() -> bytes:
    """A TIFF whose only plain picture is the preview of raw data, as NEF and ARW have it."""
    from archive_files import tiff_bytes

    content = tiff_bytes(ramp(), subfiletype=1, metadata=None, extratags=[(65000, 4, 1, 8, True)])
    return content.replace(struct.pack("<HHI", 65000, 4, 1), struct.pack("<HHI", 330, 4, 1))  # SubIFDs


def dng() -> bytes:
    from archive_files import tiff_bytes

    return tiff_bytes(ramp(), extratags=[(50706, 1, 4, (1, 4, 0, 0), True)])


@pytest.mark.parametrize("make", [dng, preview_of_raw])
@pytest.mark.parametrize("name", ["x.dng", "x.tif"])
def test_a_preview_is_not_the_photo(run, tmp_path, make, name):
    (tmp_path / name).write_bytes(make())
    status, out, err = run(tmp_path / name)
    assert (status, out, len(err)) == (1, [], 1)
    assert "camera raw, which is not read" in err[0] and "rawpy" in err[0]


# --- pages ------------------------------------------------------------------------------------------------------------


def several(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [
        scene(40, 28),
        scene(40, 28).transpose(Image.Transpose.ROTATE_180),
        scene(40, 28).convert("L").convert("RGB"),
    ]
    options = {"GIF": {"disposal": 2, "optimize": False}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.tif", "a.mpo", "a.gif", "a.png", "a.webp"])
def test_every_page_on_request_and_a_notice_otherwise(run, tmp_path, name):
    kind = {"a.tif": "TIFF", "a.mpo": "MPO", "a.gif": "GIF", "a.png": "PNG", "a.webp": "WEBP"}[name]
    (tmp_path / name).write_bytes(several(kind))
    assert pictures.page_count(tmp_path / name) == 3
    status, out, err = run(tmp_path / name, "--steps", 1)
    assert (status, len(out), len(err)) == (0, 1, 1)
    assert "the first of 3 pictures in the file; --pages all" in err[0]
    status, out, err = run(tmp_path / name, "--steps", 1, "--pages", "all", "-o", tmp_path / "out.png")
    assert (status, len(out), err) == (0, 3, [])
    results = [tmp_path / f"out-page{page}.png" for page in (1, 2, 3)]
    assert all(path.is_file() for path in results)
    first, second, third = (pictures.read(path).luminance.astype(int) for path in results)
    assert np.abs(first[::-1, ::-1] - second).mean() < 6 < np.abs(first - second).mean()
    assert np.abs(first - third).mean() < 6
    # what is there is not done again
    assert run(tmp_path / name, "--steps", 1, "--pages", "all", "-o", tmp_path / "out.png")[1] == []


def test_pages_of_different_sizes_and_thumbnails_that_are_none(run, files, tmp_path):
    import tifffile

    shutil.copy(files / "pages3.tif", tmp_path / "p.tif")
    assert run(tmp_path / "p.tif", "--steps", 1, "--pages", "all")[0] == 0
    sizes = {Image.open(path).size for path in tmp_path.glob("p-color-page*.tif")}
    with Image.open(tmp_path / "p.tif") as image:
        wanted = set()
        for page in range(3):
            image.seek(page)
            wanted.add(image.size)
    assert sizes == wanted and len(wanted) > 1
    with tifffile.TiffWriter(tmp_path / "t.tif") as file:
        file.write(colors(), photometric="rgb")
        file.write(colors(10, 16), photometric="rgb", subfiletype=1)
    assert pictures.page_count(tmp_path / "t.tif") == 1
    assert run(tmp_path / "t.tif", "--steps", 1)[2] == []


def test_a_declared_number_of_pages_costs_nothing(tmp_path):
    import zlib

    content = several("PNG")
    at = content.index(b"acTL")
    control = b"acTL" + struct.pack(">II", 2**31 - 1, 0)
    (tmp_path / "a.png").write_bytes(
        content[:at] + control + struct.pack(">I", zlib.crc32(control)) + content[at + len(control) + 4 :]
    )
    assert pictures.page_count(tmp_path / "a.png") == formats.MOST_PAGES
    assert pictures.read(tmp_path / "a.png").size == (40, 28)


# --- files that are not whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_without_its_end_is_coloured_and_a_cut_one_on_request(run, tmp_path, options, mode):
    image = Image.fromarray(colors(200, 300)).convert(mode)
    image.save(tmp_path / "whole.jpg", **options)
    whole = (tmp_path / "whole.jpg").read_bytes()
    assert whole.endswith(JPEG_END)
    for name, content in (("no-end.jpg", whole[:-2]), ("half-end.jpg", whole[:-1])):
        (tmp_path / name).write_bytes(content)
        status, out, err = run(tmp_path / name, "--steps", 1)
        assert (status, len(out)) == (0, 1)
        assert "its end marker is missing, all lines are there" in err[0]
        np.testing.assert_array_equal(
            pictures.read(tmp_path / name).pixels, np.asarray(Image.open(tmp_path / "whole.jpg"))
        )
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    status, out, err = run(tmp_path / "cut.jpg", "--steps", 1)
    assert (status, out, len(err)) == (1, [], 1)
    assert err[0].endswith("; --partial colours what is there")
    status, out, err = run(tmp_path / "cut.jpg", "--steps", 1, "--partial")
    assert (status, len(out)) == (0, 1)
    assert "it is cut short" in err[0]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "deep.png"])
def test_other_cut_files_on_request(run, tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    if name == "deep.png":
        pictures.write(pictures.Picture(noise.astype(np.uint16) * 257), tmp_path / name)
    else:
        Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    if name == "a.tif":  # its directory is at the end
        (tmp_path / name).write_bytes(content[: len(content) // 3] + content[len(content) // 3 + 4000 :])
        return
    assert run(tmp_path / name, "--steps", 1)[0] == 1
    status, out, err = run(tmp_path / name, "--steps", 1, "--partial")
    assert (status, len(out)) == (0, 1) and "it is cut short" in err[0]
    found = pictures.read(tmp_path / name, partial=True).luminance
    wanted = Image.fromarray(noise).convert("L")
    assert np.abs(found[:20] / found.max() - np.asarray(wanted)[:20] / np.asarray(wanted).max()).mean() < 0.02
