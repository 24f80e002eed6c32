"""Alignment of what a stand-in for an edit model makes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from edited import edited
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from seada_core.color.alignment import AlignmentError, align, measure
from seada_core.color.merging import merge
from seada_core.color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "photo.jpg"


def photo() -> torch.Tensor:
    """(1, 3, 400, 600): the sample in strong colours that follow its things, so that a shift shows."""
    gray = pil_to_tensor(Image.open(SAMPLE).convert("L"))[None] / 255
    smooth = F.avg_pool2d(gray, 9, 1, 4)
    chroma = torch.cat([0.25 * (smooth - 0.4), 0.3 * (0.5 - smooth)], 1)
    return ycbcr_to_rgb(torch.cat([gray, chroma], 1)).clamp(0, 1)


@pytest.mark.parametrize(
    "scale, shift",
    [((1.0, 1.0), (0.0, 0.0)), ((1.0, 1.0), (9.0, -6.0)), ((1.05, 1.05), (-12.0, 4.0)), ((0.96, 0.98), (5.0, 11.0))],
)
def test_a_moved_picture_is_measured_to_a_third_of_a_pixel(scale, shift):
    picture = photo()
    found = measure(luminance(edited(picture, scale, shift)), luminance(picture))
    corners = [(u, v) for u in (-0.8, 0.8) for v in (-0.8, 0.8)]
    for u, v in corners:
        x, y = found.scale_x * u + found.x, found.scale_y * v + found.y
        wanted = scale[0] * u + 2 * shift[0] / 512, scale[1] * v + 2 * shift[1] / 336
        assert abs(x - wanted[0]) * 256 < 0.34 and abs(y - wanted[1]) * 168 < 0.34, found


def chroma_error(result: torch.Tensor, picture: torch.Tensor) -> float:
    return float((rgb_to_ycbcr(result)[:, 1:] - rgb_to_ycbcr(picture)[:, 1:]).abs().mean())


def test_colours_land_on_the_things_they_belong_to():
    picture, still = photo(), edited(photo(), redraw=False)
    moved = edited(picture, (1.04, 1.04), (10.0, -7.0), redraw=False)
    gray = luminance(picture)
    ideal, before = (chroma_error(merge(one, gray), picture) for one in (still, moved))
    after = chroma_error(merge(align(moved, gray)[0], gray), picture)
    assert after < ideal + 0.15 * (before - ideal), (ideal, before, after)


def test_the_photo_s_luminance_is_kept():
    gray = luminance(photo())
    merged = merge(align(edited(photo(), shift=(9.0, 3.0)), gray)[0], gray)
    assert (luminance(merged) - gray).abs().max() < 1e-3


@pytest.mark.slow
def test_other_views_and_large_movements_are_refused():
    picture = photo()
    gray = luminance(picture)
    with pytest.raises(AlignmentError, match="do not show the same view"):
        measure(luminance(edited(picture.flip(-1))), gray)
    with pytest.raises(AlignmentError, match="do not show the same view"):
        measure(torch.rand(1, 1, 200, 300, generator=torch.Generator().manual_seed(0)), gray)
    with pytest.raises(AlignmentError, match=r"same view|has moved by"):
        measure(luminance(edited(picture, shift=(110.0, 0.0))), gray)
