"""Colours of a reference picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import luminance, rgb_to_ycbcr
from seada_core.hints import exemplar
from seada_core.models.captioners.coca import classifier_of
from seada_core.pipeline import Colorizer
from seada_core.steering import reference_hints

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def classifier():
    return classifier_of(Colorizer.from_pretrained("mini", "cpu").part("captioner"))


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """The example photo with two colours: blue wood and an orange cup."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    gray = pil_to_tensor(Image.open(ROOT / "samples" / "photo.jpg").convert("L").resize((240, 160)))[None] / 255
    y, x = torch.meshgrid(torch.linspace(-1, 1, 160), torch.linspace(-1, 1, 240), indexing="ij")
    cup = (((x / 0.45) ** 2 + ((y + 0.2) / 0.7) ** 2) < 1).float().view(1, 1, 160, 240)
    blue, orange = (torch.tensor(c).view(1, 2, 1, 1) for c in ((0.12, -0.1), (-0.15, 0.12)))
    return merge_chroma(torch.lerp(blue.expand(1, 2, 160, 240), orange.expand(1, 2, 160, 240), cup), gray)


def unlike(size: tuple[int, int] = (160, 240)) -> torch.Tensor:
    """A picture without objects: soft stripes in colour."""
    y = torch.linspace(0, 12, size[0]).sin().view(1, 1, -1, 1).expand(1, 3, *size)
    return (0.5 + 0.3 * y * torch.tensor([1.0, -0.5, 0.2]).view(1, 3, 1, 1)).clamp(0, 1)


def test_a_mirrored_crop_as_reference_gives_the_photos_own_colours(classifier, picture):
    gray, wanted = luminance(picture), rgb_to_ycbcr(picture)[:, 1:]
    found = exemplar.reference_hints(classifier, gray, picture[..., 10:150, 20:230].flip(3))
    assert found.shape == (1, 3, 107, 160) and found[:, 2].min() >= 0 and found[:, 2].max() <= 1
    chroma = F.interpolate(found[:, :2] * found[:, 2:], (160, 240), mode="bilinear")
    assert (chroma - wanted).norm(dim=1).mean() < 0.5 * wanted.norm(dim=1).mean()  # leaving it grey


def test_the_mask_is_higher_for_similar_pictures(classifier, picture):
    gray = luminance(picture)
    alike, other = (exemplar.reference_hints(classifier, gray, x)[:, 2].mean() for x in (picture.flip(3), unlike()))
    assert alike > 0.8
    assert other < 0.5 * alike


@pytest.mark.slow
def test_a_batch_equals_single_photos(classifier, picture):
    gray, pictures = torch.cat([luminance(picture), luminance(unlike())]), torch.cat([picture.flip(3), unlike()])
    one, each = (exemplar.reference_hints(classifier, gray, x) for x in (pictures[:1], pictures))
    for i in range(2):
        assert torch.equal(one[i : i + 1], exemplar.reference_hints(classifier, gray[i : i + 1], pictures[:1]))
        assert torch.equal(each[i : i + 1], exemplar.reference_hints(classifier, gray[i : i + 1], pictures[i : i + 1]))
    with pytest.raises(ValueError, match="3 reference pictures for 2 photos: give one, or one each"):
        exemplar.reference_hints(classifier, gray, pictures[[0, 0, 1]])


@pytest.mark.parametrize("size", [(1, 1), pytest.param((1, 50), marks=pytest.mark.slow), (50, 1), (3, 2000)])
def test_any_size_on_either_side(classifier, picture, size):
    small = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = tuple(max(1, round(side * min(1, 160 / max(size)))) for side in size)
    assert exemplar.reference_hints(classifier, luminance(small), picture).shape == (1, 3, *expected)
    found = exemplar.reference_hints(classifier, luminance(picture), small)
    assert found.shape == (1, 3, 107, 160) and found.isfinite().all()


def test_a_model_without_a_classifier_says_so(tiny_model):
    with pytest.raises(ValueError, match="no classifier to match two pictures by"):
        reference_hints(Colorizer(tiny_model, "cpu"), torch.rand(1, 1, 8, 8), torch.rand(1, 3, 8, 8))
