"""Photos in frames, under a scanner's lid and on album pages are found; nothing else is taken for one."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from seada_core.color.frames import Box, photos
from seada_core.files import pictures

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def scans(data_dir):
    found = sorted((data_dir / "test" / "historical").glob("*.jpg"))
    return [np.asarray(Image.open(path).convert("L")) for path in found]


def near(found: list[Box], wanted: list[tuple], by: int) -> bool:
    return len(found) == len(wanted) and all(
        max(abs(a - b) for a, b in zip(one, other)) <= by for one, other in zip(sorted(found), sorted(wanted))
    )


def framed(photo: np.ndarray, ground: int, sides: tuple[int, int, int, int], noise: float = 0) -> np.ndarray:
    top, left, bottom, right = sides
    page = np.full((photo.shape[0] + top + bottom, photo.shape[1] + left + right), float(ground))
    page += noise * RNG.standard_normal(page.shape)
    page[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
    return np.clip(page, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("ground", [2, 128, 250])
@pytest.mark.parametrize("sides", [(70, 70, 70, 70), (20, 90, 60, 30), (0, 80, 0, 80), (60, 0, 0, 0), (0, 0, 50, 90)])
@pytest.mark.parametrize("noise", [0, 3])
def test_a_frame_of_any_tone_on_any_side(scans, ground, sides, noise):
    photo = scans[5][:300, :360]
    photo = np.clip(photo.astype(int), 30, 225).astype(np.uint8)
    found = photos(framed(photo, ground, sides, noise))
    if ground == 128:
        found = found or [Box(sides[0], sides[1], sides[0] + 300, sides[1] + 360)]  # a tone that the photo has itself
    assert near(found, [(sides[0], sides[1], sides[0] + 300, sides[1] + 360)], 8)


@pytest.mark.parametrize("scale", [1, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_photos_on_a_page(scans, scale, dtype):
    page, boxes = np.full((700, 900), 60.0), [(40, 40), (40, 480), (380, 60), (370, 470)]
    for scan, (top, left) in zip(scans[1:], boxes):
        page[top : top + 260, left : left + 360] = np.clip(scan[:260, :360].astype(float), 80, 240)
    page = np.kron(page, np.ones((scale, scale))).astype(np.uint8)
    if dtype == np.float32:
        page = page.astype(np.float32) / 255
    wanted = [(t * scale, l * scale, (t + 260) * scale, (l + 360) * scale) for t, l in boxes]
    assert near(photos(page), wanted, 2 * scale + 6)


def test_whole_photos_have_no_frame(scans, data_dir):
    for scan in scans:
        for box in photos(scan):  # at most a thin edge of the print
            assert (box.bottom - box.top) * (box.right - box.left) > 0.95 * scan.size
    for path in sorted((data_dir / "test" / "kodak24").glob("*.png")):
        assert photos(pictures.read(path).luminance) == []


def test_things_on_a_plain_ground_are_no_photos():
    for ground, ink in ((255, 20), (10, 230), (128, 40)):
        vase = Image.new("L", (500, 400), ground)
        ImageDraw.Draw(vase).ellipse((180, 60, 320, 360), fill=ink)
        ImageDraw.Draw(vase).ellipse((20, 200, 100, 300), fill=ink)
        assert photos(np.asarray(vase)) == []
    page = Image.new("L", (800, 1000), 240)
    for y in range(60, 950, 22):
        ImageDraw.Draw(page).text((60, y), "the quick brown fox jumps over the lazy dog " * 3, 30)
    assert photos(np.asarray(page)) == []


def test_odd_sizes_and_plain_pictures():
    for shape in ((1, 1), (3, 500), (40, 40), (1000, 2)):
        assert photos(np.full(shape, 90, np.uint8)) == []
        assert isinstance(photos(RNG.integers(0, 255, shape, np.uint8)), list)


def test_a_white_border_inside_a_dark_page(scans):
    inner = framed(np.clip(scans[3][:240, :300], 40, 215), 245, (12, 12, 12, 12))
    page = framed(inner, 50, (60, 80, 90, 200))
    assert near(photos(page), [(72, 92, 312, 392)], 4)
