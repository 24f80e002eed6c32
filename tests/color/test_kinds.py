"""What is said of photos that are coloured, toned, negatives or documents; and their colours kept."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from seada_core.color import kinds
from seada_core.files import pictures

TONES = {"grey": (1, 1, 1), "sepia": (0.8, 0.93, 1.3), "cyanotype": (1.6, 1.1, 0.85), "selenium": (0.95, 1.05, 1)}


def gray(data_dir, name: str = "Hemmingway") -> np.ndarray:
    image = Image.open(data_dir / "test" / "historical" / f"{name}.jpg").convert("L")
    image.thumbnail((500, 500))
    return np.asarray(image) / 255


def to_bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def toned(data_dir, tone: str) -> np.ndarray:
    g = gray(data_dir)
    powers = {"grey": (1, 1, 1), "sepia": (0.8, 0.93, 1.3), "cyanotype": (1.6, 1.1, 0.85), "selenium": (0.95, 1.05, 1)}[
        tone
    ]
    return to_bytes(np.stack([g**p for p in powers], -1))


@pytest.mark.parametrize("tone", TONES)
def test_toned_prints_are_photos_like_any(data_dir, tone):
    assert kinds.notices(toned(data_dir, tone)) == []
    assert kinds.colored_parts(toned(data_dir, tone)) is None


def test_real_photos_get_no_notice(data_dir):
    for path in sorted((data_dir / "test" / "historical").glob("*.jpg")):
        assert kinds.notices(pictures.read(path).pixels) == [], path.name


def test_colour_photos_are_told(data_dir):
    for path in sorted((data_dir / "test" / "kodak24").glob("*.png"))[::3]:
        pixels = pictures.read(path).pixels
        assert kinds.notices(pixels) == [kinds.COLORED], path.name
        assert kinds.notices(pixels.astype(np.uint16) * 257) == [kinds.COLORED]
        assert kinds.is_colored(pixels) and kinds.notices(pixels, keep=True) == []


@pytest.mark.parametrize("tone", ["grey", "sepia"])
def test_a_stamp_is_a_part(data_dir, tone):
    photo = toned(data_dir, tone)
    photo[20:60, 20:80] = [180, 40, 60]
    assert kinds.notices(photo) == [kinds.PARTS] and not kinds.is_colored(photo)
    mask = kinds.colored_parts(photo)
    assert mask[24:56, 24:76].min() == 1 and mask[100:].max() == 0


def test_documents_and_drawings():
    page = Image.new("L", (800, 1000), 240)
    draw = ImageDraw.Draw(page)
    for y in range(60, 950, 22):
        draw.text((60, y), "the quick brown fox jumps over the lazy dog " * 3, 30)
    drawing = Image.new("L", (600, 400), "white")
    for k in range(12):
        ImageDraw.Draw(drawing).ellipse((30 * k, 20 * k, 300 + 20 * k, 200 + 10 * k), outline=20, width=2)
    for image in (page, page.convert("1").convert("L"), drawing):
        assert kinds.notices(np.asarray(image)) == [kinds.DOCUMENT]
    assert kinds.notices(np.asarray(page, np.float32) / 255) == [kinds.DOCUMENT]


def test_a_dithered_photo_is_told_and_no_document(data_dir):
    image = Image.fromarray(to_bytes(gray(data_dir, "1890Surfer"))).convert("1").convert("L")
    assert kinds.notices(np.asarray(image)) == [kinds.BILEVEL]


def test_a_colour_negative(data_dir):
    positive = np.asarray(Image.open(data_dir / "test/kodak24/kodim05.png").convert("RGB")) / 255
    negative = (1 - positive) * [0.59, 0.43, 0.27] + [0.37, 0.18, 0.1]
    assert kinds.notices(to_bytes(negative)) == [kinds.NEGATIVE]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_colours_are_kept_on_request_and_replaced_with_a_notice_otherwise(run, data_dir, tmp_path):
    Image.open(data_dir / "test/kodak24/kodim05.png").resize((120, 120)).save(tmp_path / "c.png")
    photo = toned(data_dir, "grey")
    photo[20:60, 20:80] = [180, 40, 60]
    Image.fromarray(photo).save(tmp_path / "s.png")
    for name, notice in (("c", kinds.COLORED), ("s", kinds.PARTS)):
        status, _, err = run(tmp_path / f"{name}.png", "--steps", 1, notes=True)
        assert status == 0 and notice in err[0]
    status, out, err = run(tmp_path, "--steps", 1, "--keep-color", "-o", tmp_path / "out")
    assert (status, len(out)) == (0, 4)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "c.png")), Image.open(tmp_path / "c.png"))
    kept = np.asarray(Image.open(tmp_path / "out" / "s.png"))
    np.testing.assert_array_equal(kept[24:56, 24:76], photo[24:56, 24:76])
    assert np.abs(kept.astype(int) - photo).max(-1)[100:].mean() > 2  # the rest is coloured


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_16_bit_colours_are_kept(run, data_dir, tmp_path, suffix):
    colors = np.asarray(Image.open(data_dir / "test/kodak24/kodim05.png").resize((60, 60)).convert("RGB"))
    pictures.write(pictures.Picture(colors.astype(np.uint16) * 257), tmp_path / "deep.png")
    target = tmp_path / f"out{suffix}"
    assert run(tmp_path / "deep.png", "-o", target, "--keep-color")[0] == 0
    found = pictures.read(target)
    assert found.is_deep == (suffix == ".png")
    assert np.abs(found.pixels / (257 if found.is_deep else 1) - colors).mean() < (0.01 if found.is_deep else 8)
