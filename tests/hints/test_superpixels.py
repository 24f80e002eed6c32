"""SLIC against scikit-image's, its regions' connectivity, and quantisation against Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from seada_core.hints.superpixels import quantize, slic


def photo(data_dir, name, side):
    picture = Image.open(data_dir / "test" / "kodak24" / name).convert("RGB").resize((side, side))
    return picture, torch.tensor(np.array(picture)).permute(2, 0, 1) / 255


def assert_connected(labels):
    labels = labels.numpy()
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    for label, box in enumerate(ndimage.find_objects(labels + 1)):
        assert ndimage.label(labels[box] == label)[1] == 1  # 4-connected by default


def explained_variation(lab, labels):
    """Moore et al. 2008: the share of the colours' variance that lies between superpixels."""
    means = np.stack([ndimage.mean(lab[..., c], labels, np.arange(labels.max() + 1)) for c in range(3)], -1)
    centre = lab.mean((0, 1))
    return ((means[labels] - centre) ** 2).sum() / ((lab - centre) ** 2).sum()


def boundaries(labels):
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge


@pytest.mark.parametrize("name", ["kodim05.png", "kodim13.png", "kodim23.png"])
def test_slic_on_a_photo_is_connected_and_no_worse_than_scikit_image(data_dir, name):
    from skimage.color import rgb2lab
    from skimage.segmentation import slic as reference_slic

    picture, image = photo(data_dir, name, 192)
    labels = slic(image, 200)
    assert_connected(labels)
    count = int(labels.max()) + 1
    assert 120 <= count <= 280
    # scikit-image returns fewer regions than asked for: ask until it has as many
    for asked in range(count, 8 * count, 10):
        reference = reference_slic(np.array(picture), asked, compactness=10, start_label=0)
        if reference.max() + 1 >= count:
            break
    assert reference.max() + 1 >= count
    lab = rgb2lab(np.array(picture))
    assert explained_variation(lab, labels.numpy()) > 0.97 * explained_variation(lab, reference)
    # boundary recall: strong colour edges that a boundary comes within two pixels of
    step = np.hypot(*(ndimage.sobel(lab[..., 0], axis) for axis in (0, 1)))
    strong = step > np.quantile(step, 0.95)
    near = [
        (ndimage.binary_dilation(boundaries(x), iterations=2) & strong).sum() / strong.sum()
        for x in (labels.numpy(), reference)
    ]
    assert near[0] > near[1] - 0.03


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (5, 3), (50, 73), (97, 31)])
@pytest.mark.parametrize("segments", [1, 6, 60, 10_000])
def test_slic_takes_any_size_and_noise(size, segments):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    labels = slic(image, segments)
    assert labels.shape == size and labels.dtype == torch.long
    assert_connected(labels)


def test_slic_of_a_flat_picture_is_the_grid():
    labels = slic(torch.full((3, 60, 80), 0.5), 48)
    assert labels.max() == 47
    assert torch.bincount(labels.flatten()).min() >= 80  # of 100


def test_slic_keeps_two_colours_apart():
    image = torch.zeros(3, 64, 64)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (y - 30) ** 2 + (x - 25) ** 2 < 15**2
    image[0, disc] = 1
    labels = slic(image, 40)
    for label in range(int(labels.max()) + 1):
        share = disc[labels == label].float().mean()
        assert share in (0, 1)


def test_slic_and_quantize_are_deterministic_and_refuse_bad_input():
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slic(image, 20), slic(image, 20))
    assert torch.equal(quantize(image, 9)[0], quantize(image, 9)[0])
    for function in (slic, quantize):
        with pytest.raises(ValueError, match="one picture"):
            function(image[None], 20)
        with pytest.raises(ValueError, match="at least 1, got 0"):
            function(image, 0)


@pytest.mark.parametrize("n", [2, 8, 32, 256])
def test_quantisation_error_is_below_pillow_s(data_dir, n):
    from skimage.color import rgb2lab

    picture, image = photo(data_dir, "kodim05.png", 160)
    result, palette = quantize(image, n)
    colors = np.unique(result.permute(1, 2, 0).reshape(-1, 3).numpy(), axis=0)
    assert len(colors) == len(palette) <= n
    assert {tuple(c) for c in colors.tolist()} == {tuple(c) for c in palette.tolist()}
    lab = rgb2lab(np.array(picture))
    error = np.square(rgb2lab(result.permute(1, 2, 0).numpy()) - lab).sum(-1).mean()
    for kmeans in (0, 3):
        pillow = picture.quantize(n, kmeans=kmeans).convert("RGB")
        assert error < np.square(rgb2lab(np.array(pillow)) - lab).sum(-1).mean()


def test_a_picture_of_few_colours_is_kept():
    colors = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.1, 0.1], [0.2, 0.8, 0.3]])
    image = colors[torch.randint(3, (20, 30), generator=torch.Generator().manual_seed(0))].permute(2, 0, 1)
    result, palette = quantize(image, 8)
    assert len(palette) == 3
    torch.testing.assert_close(result, image, atol=1e-4, rtol=0)
