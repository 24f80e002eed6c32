"""Hint maps and the training samplers."""

import math

import pytest
import torch
from PIL import Image

from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.files.hint_format import KEEP, Hint, Stroke
from seada_core.hints import maps as H


def chroma(color):
    """JFIF's own formula, for one "#rrggbb"."""
    r, g, b = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return -0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b


def photo(data_dir, name, size):
    picture = Image.open(data_dir / "test" / "kodak24" / name).convert("RGB").resize(size)
    return torch.tensor(list(picture.tobytes()), dtype=torch.float32).view(size[1], size[0], 3).permute(2, 0, 1) / 255


def test_a_point_is_one_pixel_with_the_chroma_of_its_colour():
    drawn = H.hint_map([Hint(5, 3, "#ff8000")], (8, 10), (8, 10))
    assert drawn.shape == (1, 3, 8, 10)
    assert drawn[0, 2].nonzero().tolist() == [[3, 5]]
    assert drawn[0, :2, 3, 5].tolist() == pytest.approx(chroma("#ff8000"), abs=1e-5)
    assert drawn.count_nonzero() == 3


def test_a_disc_covers_the_pixel_centres_within_its_radius():
    drawn = H.hint_map([Hint(10, 7, "#204080", 3.5)], (20, 24), (20, 24))[0, 2]
    expected = [[float((x - 10) ** 2 + (y - 7) ** 2 <= 3.5**2) for x in range(24)] for y in range(20)]
    assert drawn.tolist() == expected


def test_hints_scale_from_photo_to_map():
    # 400x200 photo on a 100x100 map: a circle of the photo is an ellipse there
    drawn = H.hint_map([Hint(200, 100, "#204080", 40)], (100, 100), (200, 400))[0, 2]
    rows, columns = drawn.nonzero().unbind(1)
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == (20, 40)
    assert drawn.sum().item() == pytest.approx(math.pi * 10 * 20, rel=0.03)
    assert columns.float().mean() + 0.5 == pytest.approx(50, abs=0.6)
    # every pixel of the photo maps to a pixel of the map, for any ratio
    for size in ((1, 1), (3, 7), (450, 301)):
        for x, y in ((0, 0), (399, 199), (399.9, 0)):
            assert H.hint_map([Hint(x, y, "#204080")], size, (200, 400))[0, 2].sum() == 1


def test_the_later_hint_wins():
    one, two = Hint(5, 5, "#ff0000", 3), Hint(6, 5, "#0000ff", 3)
    drawn = H.hint_map([one, two], (12, 12), (12, 12))
    assert drawn[0, :2, 5, 6].tolist() == pytest.approx(chroma("#0000ff"), abs=1e-5)
    assert drawn[0, :2, 5, 2].tolist() == pytest.approx(chroma("#ff0000"), abs=1e-5)


@pytest.mark.parametrize("x, y", [(-1, 2), (20, 2), (2, 10), (2, -0.5)])
def test_a_hint_outside_the_photo_is_refused(x, y):
    with pytest.raises(ValueError, match=rf"\({x:g}, {y:g}\) lies outside the photo, which is 20 wide and 10 high"):
        H.hint_map([Hint(x, y, "#ff0000", 50)], (10, 20), (10, 20))


def to_segment(x, y, a, b):
    """The distance of (x, y) to the segment from a to b, by the angles at its ends."""
    to_a, to_b, length = math.dist((x, y), a), math.dist((x, y), b), math.dist(a, b)
    if not length or to_b**2 >= to_a**2 + length**2 or to_a**2 >= to_b**2 + length**2:
        return min(to_a, to_b)
    half = (to_a + to_b + length) / 2  # Heron's formula
    return 2 * math.sqrt(max(0, half * (half - to_a) * (half - to_b) * (half - length))) / length


@pytest.mark.parametrize("size", [(30, 40), (15, 20), (17, 61), (60, 80)])
@pytest.mark.parametrize(
    "points", [[(5, 5), (30, 20), (30, 9)], [(-6, 12), (20, 40)], [(8, 8)], [(9, 9), (9, 9)], [(3, 2), (38, 2)]]
)
def test_a_stroke_is_the_union_of_capsules_around_its_segments(points, size):
    drawn = H.hint_map([Stroke(points, "#ff8000", 3.3)], size, (30, 40))[0, 2]
    ends = [(math.floor(x) + 0.5, math.floor(y) + 0.5) for x, y in points]
    for i in range(size[0]):
        for j in range(size[1]):
            x, y = (j + 0.5) * 40 / size[1], (i + 0.5) * 30 / size[0]
            distance = min(to_segment(x, y, a, b) for a, b in zip(ends, ends[1:] or ends))
            if abs(distance - 3.3) > 1e-6:
                assert drawn[i, j] == (distance < 3.3), (i, j, distance)


def test_a_stroke_without_radius_is_an_unbroken_line():
    drawn = H.hint_map([Stroke([(2, 3), (35, 3), (20, 28), (-9, -1)], "#ff8000")], (30, 40), (30, 40))[0]
    assert drawn[2, 3, 2:36].all()
    rows, columns = drawn[2].nonzero().unbind(1)
    assert {3, 28} <= set(rows.tolist()) and 0 in columns
    for y, x in zip(rows, columns):  # each has a neighbour
        assert drawn[2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].sum() >= 2
    assert drawn[2].sum() < 150
    assert drawn[:2, 3, 10].tolist() == pytest.approx(chroma("#ff8000"), abs=1e-5)


def test_on_a_smaller_map_a_stroke_keeps_its_line():
    thin = Stroke([(10, 10), (390, 190)], "#ff8000", 1)
    drawn = H.hint_map([thin], (10, 20), (200, 400))[0, 2]
    assert drawn.any(0)[1:19].all() and drawn.any(1)[1:9].all()


def test_the_later_of_hints_and_strokes_wins():
    stroke, hint = Stroke([(2, 5), (9, 5)], "#ff0000", 2), Hint(5, 5, "#0000ff", 1)
    for order, winner in (([stroke, hint], "#0000ff"), ([hint, stroke], "#ff0000")):
        drawn = H.hint_map(order, (12, 12), (12, 12))
        assert drawn[0, :2, 5, 5].tolist() == pytest.approx(chroma(winner), abs=1e-5)
        assert drawn[0, :2, 5, 9].tolist() == pytest.approx(chroma("#ff0000"), abs=1e-5)


@pytest.mark.parametrize("points", [[(-5, 3)], [(-5, 3), (-1, 9)], [(25, -9), (25, 30)], [(-8, 5), (5, -8)]])
def test_a_stroke_outside_the_photo_is_refused(points):
    with pytest.raises(ValueError, match=r"stroke #ff0000 from .* outside the photo, which is 20 wide and 10 high"):
        H.hint_map([Stroke(points, "#ff0000", 50)], (10, 20), (10, 20))


def test_many_hints_equal_single_draws_and_distant_points_are_harmless():
    generator = torch.Generator().manual_seed(0)
    x, y, radius = (torch.rand(3, 200, generator=generator) * torch.tensor([[50], [40], [6]])).tolist()
    colors = [f"#{i:02x}80{255 - i:02x}" for i in range(200)]
    hints = [Hint(*values) for values in zip(x, y, colors, radius)]
    expected = torch.zeros(3, 40, 50)
    for hint in hints:  # each on the whole map
        one = H.hint_map([hint], (40, 50), (40, 50))[0]
        expected = torch.where(one[2:] > 0, one, expected)
    assert torch.equal(H.hint_map(hints, (40, 50), (40, 50))[0], expected)
    far = H.hint_map([Stroke([(-1e6, 20), (1e6, 20)], "#ff0000", 1e300)], (40, 50), (40, 50))
    assert far[0, 2].all()
    assert H.hint_map([], (4, 5), (4, 5)).count_nonzero() == 0


def test_hint_map_from_mask_and_from_picture():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, 6, 7, generator=generator) - 0.4).clamp(0, 1)
    painted = H.hint_map_from_mask(mask, "#3366cc")
    assert torch.equal(painted[:, 2:], mask)
    expected = torch.tensor(chroma("#3366cc")).view(1, 2, 1, 1) * (mask > 0)
    torch.testing.assert_close(painted[:, :2], expected, atol=1e-5, rtol=0)
    picture = torch.rand(2, 3, 6, 7, generator=generator)
    taken = H.hint_map_from_picture(picture, mask)
    torch.testing.assert_close(taken[:, :2], rgb_to_ycbcr(picture)[:, 1:] * (mask > 0))
    for bad in (mask[0], mask + 1, mask * math.nan):
        with pytest.raises(ValueError, match="hint mask"):
            H.hint_map_from_mask(bad, "#3366cc")
    with pytest.raises(ValueError, match="picture has shape"):
        H.hint_map_from_picture(picture[..., 1:], mask)


@pytest.mark.parametrize("size", [(4, 5), (12, 10), (7, 9), (24, 40), (1, 1)])
def test_resizing_keeps_colours_undiluted(size):
    drawn = H.hint_map([Hint(4, 7, "#ff8000"), Hint(15, 2, "#0060ff", 2)], (12, 20), (12, 20))
    drawn[0, 2] *= 0.75
    small = H.resize_hint_map(drawn, size)
    assert small.shape[-2:] == size and small.isfinite().all()
    assert not small[:, :2][(small[:, 2:] == 0).expand(-1, 2, -1, -1)].any()
    assert small[0, 2].max() == 0.75
    # an independent mask-weighted mean, window by window
    for i in range(size[0]):
        for j in range(size[1]):
            top, bottom = i * 12 // size[0], -((-(i + 1) * 12) // size[0])
            left, right = j * 20 // size[1], -((-(j + 1) * 20) // size[1])
            window = drawn[0, :, top:bottom, left:right].double()
            weight = window[2].sum()
            mean = (window[:2] * window[2]).sum((1, 2)) / weight if weight else torch.zeros(2)
            assert small[0, :2, i, j].tolist() == pytest.approx(mean.tolist(), abs=1e-6)


def test_superpixel_hints_reveal_30_to_50_percent_with_the_mean_chroma(data_dir):
    rgb = torch.stack([photo(data_dir, f"kodim{n:02}.png", (96, 96)) for n in (3, 13)])
    labels = H.superpixel_labels(rgb, 60)
    generator = torch.Generator().manual_seed(1)
    shares = []
    for _ in range(60):
        sampled = H.sample_superpixel_hints(rgb, generator, labels=labels)
        for picture, label, drawn in zip(rgb_to_ycbcr(rgb)[:, 1:], labels, sampled):
            shown = [i for i in range(int(label.max()) + 1) if drawn[2][label == i].any()]
            assert all(drawn[2][label == i].all() for i in shown)  # a superpixel is revealed as a whole
            shares.append(len(shown) / (int(label.max()) + 1))
            i = shown[0]
            torch.testing.assert_close(
                drawn[:2][:, label == i].mean(1), picture[:, label == i].mean(1), atol=1e-5, rtol=0
            )
        assert not (sampled[:, :2] * (1 - sampled[:, 2:])).any()
    assert 0.29 < min(shares) < 0.33 and 0.47 < max(shares) < 0.51
    assert sum(shares) / len(shares) == pytest.approx(0.4, abs=0.02)


def test_point_hints_are_few_and_show_the_mean_of_their_patch():
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    chroma_map = rgb_to_ycbcr(rgb)[0, 1:]
    generator = torch.Generator().manual_seed(2)
    areas = []
    for _ in range(1500):
        drawn = H.sample_point_hints(rgb, generator)[0]
        areas.append(int(drawn[2].sum()))
        if areas[-1] == 4:
            (y, x), *_ = drawn[2].nonzero().tolist()
            expected = chroma_map[:, y : y + 2, x : x + 2].mean((1, 2))
            torch.testing.assert_close(drawn[:2, y + 1, x + 1], expected)
    none = sum(area == 0 for area in areas) / len(areas)
    assert none == pytest.approx((1 / 101) ** (1 / 3), abs=0.03)
    assert 40 <= sorted(areas)[750] <= 56  # median: 12 points
    assert 300 < max(areas) <= 400


@pytest.mark.parametrize("sampler", [H.sample_point_hints, H.sample_superpixel_hints])
def test_samplers_depend_on_the_generator_alone_and_not_on_the_batch(sampler):
    rgb = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    batch = sampler(rgb, torch.Generator().manual_seed(5))
    assert batch.shape == rgb.shape
    assert torch.equal(batch, sampler(rgb, torch.Generator().manual_seed(5)))
    assert not torch.equal(batch, sampler(rgb, torch.Generator().manual_seed(6)))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(batch, torch.cat([sampler(picture[None], generator) for picture in rgb]))


def test_samplers_take_a_single_pixel():
    rgb = torch.full((1, 3, 1, 1), 0.5)
    for sampler in (H.sample_point_hints, H.sample_superpixel_hints):
        assert sampler(rgb, torch.Generator().manual_seed(0)).shape == (1, 3, 1, 1)


def test_spread_and_kept_places_survive_resizing_and_joining():
    drawn = H.hint_map([Hint(2, 2, "#a04040", 1, 0.5), Hint(12, 12, KEEP, 1)], (16, 16), (16, 16))
    assert drawn.shape[1] == 5 and (drawn[0, 2] * drawn[0, 4]).max() == 0
    small = H.resize_hint_map(drawn, (4, 4))
    assert small[0, 3, 0, 0] == pytest.approx(0.5) and small[0, 2:, 3, 3].tolist() == [0, 0, 1]
    assert small[0, :, 1, 2].abs().sum() == 0
    plain = H.hint_map([Hint(12, 12, "#4040a0")], (16, 16), (16, 16))
    assert plain.shape[1] == 3 and torch.equal(
        H.resize_hint_map(plain, (4, 4)), H.resize_hint_map(plain[:, :3], (4, 4))
    )
    above, below = H.joined(plain, drawn), H.joined(drawn, plain)
    assert above[0, 4, 12, 12] == 0 and above[0, 2, 12, 12] == 1 and above[0, 4, 12, 11] == 1
    assert below[0, 4, 12, 12] == 1 and below[0, 3, 2, 2] == 0.5


def test_hints_on_black_or_white_are_named_once():
    gray = torch.full((1, 1, 40, 60), 0.5)
    gray[..., :20], gray[..., 40:] = 0, 1
    dark, light, visible = (
        Hint(20, 40, "#a04040", 5),
        Stroke(((100, 40), (110, 60)), "#4040a0"),
        Hint(60, 40, "#a04040"),
    )
    assert H.hidden_hints([dark, visible], gray, (80, 120)) == (
        "a hint lies on black or white, where no colour can show, at (20, 40)"
    )
    assert H.hidden_hints([light, dark], gray, (80, 120)).startswith("2 hints lie on black or white")
    partly = Hint(38, 40, "#a04040", 8)  # a part of the disc is on grey
    grey = Hint(20, 40, "#808080")
    assert H.hidden_hints([visible, partly, grey, Hint(20, 40, KEEP)], gray, (80, 120)) == ""
