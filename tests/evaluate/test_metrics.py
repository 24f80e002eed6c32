"""Each measure against an independent implementation, on real photos or with known answers."""

import json
import math
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.color import spaces
from seada_core.evaluate import metrics
from seada_core.evaluate.sources import gray_of, to_8bit

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def photos(data_dir):
    """Four Kodak photos at 250×250, uint8 (4, H, W, 3)."""
    paths = sorted((data_dir / "test" / "kodak24").glob("*.png"))[3:23:5]
    return np.stack([np.array(Image.open(path).convert("RGB").resize((250, 250))) for path in paths])


@pytest.fixture(scope="module")
def truth(photos):
    return torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255


def faded(rgb, chroma):
    gray = gray_of(rgb)
    return to_8bit(gray + chroma * (rgb - gray))


def hwc(rgb):
    return rgb.permute(1, 2, 0).double().numpy()


def field_colorfulness(image):
    """The code that the colourisation papers share, on an (H, W, 3) picture of 0..255."""
    r, g, b = (image[..., channel].astype(float) for channel in range(3))
    rg, yb = np.absolute(r - g), np.absolute(0.5 * (r + g) - b)
    return np.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)


def test_colorfulness_in_both_conventions(photos, truth):
    np.testing.assert_allclose(metrics.colorfulness(truth), [field_colorfulness(p) for p in photos], rtol=1e-4)
    for photo, value in zip(photos.astype(float), metrics.colorfulness(truth, signed=True)):
        r, g, b = np.moveaxis(photo, -1, 0)
        spread = np.sqrt(np.var(r - g) + np.var((r + g) / 2 - b))
        assert value == pytest.approx(spread + 0.3 * np.hypot(np.mean(r - g), np.mean((r + g) / 2 - b)), rel=1e-4)
    red = torch.zeros(3, 8, 8)
    red[0] = 1
    assert metrics.colorfulness(red) == pytest.approx(0.3 * math.hypot(255, 127.5), rel=1e-5)
    assert (metrics.colorfulness(faded(truth, 0)) == 0).all()


def test_colorfulness_is_what_the_data_set_says(data_dir):
    with tarfile.open(data_dir / "val-000.tar") as shard:
        members = [member for member, _ in zip(shard, range(16))]
        for picture, about in zip(members[::2], members[1::2]):
            image = np.array(Image.open(shard.extractfile(picture)).convert("RGB"))
            value = metrics.colorfulness(torch.from_numpy(image).permute(2, 0, 1) / 255)
            # Measured before the shard's pictures were compressed.
            assert value == pytest.approx(json.load(shard.extractfile(about))["colorfulness"], abs=1)


def test_psnr_and_ssim_agree_with_scikit_image_and_torchmetrics(photos, truth):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.image import PeakSignalNoiseRatio

    result = faded(truth, 0.3)
    psnr, ssim = metrics.psnr(result, truth), metrics.ssim(result, truth)
    for index, photo in enumerate(photos):
        as_saved = (result[index] * 255).round().byte().permute(1, 2, 0).numpy()
        assert psnr[index] == pytest.approx(peak_signal_noise_ratio(photo, as_saved, data_range=255), abs=1e-3)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        expected = structural_similarity(hwc(result[index]), hwc(truth[index]), channel_axis=-1, **options)
        assert ssim[index] == pytest.approx(expected, abs=1e-4)
    per_picture = PeakSignalNoiseRatio(data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr, per_picture(result, truth))
    assert torch.isinf(metrics.psnr(truth, truth)).all()
    torch.testing.assert_close(metrics.ssim(truth, truth), torch.ones(4))


def test_ssim_agrees_with_torchmetrics(truth):
    from torchmetrics.functional.image import structural_similarity_index_measure

    result = faded(truth, 0.3)
    _, maps = structural_similarity_index_measure(
        result, truth, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(metrics.ssim(result, truth), maps[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-5, rtol=0)
    assert metrics.ssim(truth[0], truth[0].flip(-1)) < 0.6


def test_delta_colorfulness_is_of_the_data_sets_means():
    """Mean 30 against mean 32, though each picture differs by 10 or 6."""
    ours, truth = np.array([20.0, 40.0]), np.array([30.0, 34.0])
    assert metrics.delta_colorfulness(ours.mean(), truth.mean()) == 2


def test_edges_and_their_chroma_error_agree_with_scikit_image(truth):
    from skimage.color import rgb2lab
    from skimage.filters import sobel
    from skimage.morphology import dilation, footprint_rectangle

    result = faded(truth, 0.5)
    errors = metrics.edge_chroma_error(result, truth)
    for index, error in enumerate(errors):
        lab, other = rgb2lab(hwc(truth[index])), rgb2lab(hwc(result[index]))
        at = dilation(sobel(lab[..., 0] / 100) >= metrics.EDGE, footprint_rectangle((3, 3)))
        assert 0.02 < at.mean() < 0.9
        mine = metrics.edges(spaces.rgb_to_lab(truth[index])[0])
        assert (mine.numpy() != at).mean() < 1e-3  # rounding at the threshold
        assert error == pytest.approx(np.hypot(*np.moveaxis(lab - other, -1, 0)[1:])[at].mean(), rel=2e-3)


def test_bleeding_shows_at_edges():
    """Two halves of the right colours, one of whose colours runs 3 px over the border: the error is all at the edge."""
    truth = torch.full((3, 64, 64), 0.3)
    truth[:, :, 32:] = torch.tensor([0.9, 0.7, 0.6])[:, None, None]
    chroma = spaces.rgb_to_ycbcr(truth)
    chroma[1:, :, 29:32] = chroma[1:, :, 32:35]
    bled = spaces.ycbcr_to_rgb(chroma)
    everywhere = metrics.chroma_error(spaces.rgb_to_lab(bled), spaces.rgb_to_lab(truth)).mean()
    assert metrics.edge_chroma_error(bled, truth) > 8 * everywhere > 0
    assert torch.isnan(metrics.edge_chroma_error(torch.full((3, 16, 16), 0.5), torch.full((3, 16, 16), 0.5)))


# Sharma, Wu and Dalal 2005, table 1: the pairs that tell apart mistakes about hue's turn, zero chroma and rotation.
SHARMA = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), SHARMA)
def test_ciede2000_of_sharmas_pairs(first, second, expected):
    a, b = (torch.tensor(lab, dtype=torch.float64).view(3, 1, 1) for lab in (first, second))
    assert metrics.ciede2000(a, b).item() == pytest.approx(expected, abs=1e-4)
    assert metrics.ciede2000(b, a).item() == pytest.approx(expected, abs=1e-4)


def test_delta_e2000_agrees_with_scikit_image(truth):
    from skimage.color import deltaE_ciede2000, rgb2lab

    result = faded(truth, 0.4).roll(7, dims=-1)
    for index, value in enumerate(metrics.delta_e2000(result, truth)):
        expected = deltaE_ciede2000(rgb2lab(hwc(result[index])), rgb2lab(hwc(truth[index]))).mean()
        assert value == pytest.approx(expected, rel=1e-3)
    assert metrics.delta_e2000(truth, truth).max() == 0


def test_statistics_of_batches_are_those_of_the_whole():
    vectors = np.random.default_rng(0).normal(1e4, 1.0, (500, 6))  # a mean that would drown naive sums of squares
    statistics = metrics.GaussianStatistics(6)
    for start, end in ((0, 1), (1, 1), (1, 130), (130, 500)):
        statistics.update(torch.from_numpy(vectors[start:end]))
    np.testing.assert_allclose(statistics.mean, vectors.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(vectors.T), rtol=1e-8, atol=1e-10)


def statistics_of(vectors):
    statistics = metrics.GaussianStatistics(vectors.shape[1])
    statistics.update(torch.as_tensor(vectors))
    return statistics


def test_frechet_distance_of_known_gaussians():
    """Diagonal Gaussians: |Δμ|² + Σ (σ_a - σ_b)². Whitened samples have exactly the moments asked for."""
    generator = np.random.default_rng(1)
    raw = generator.normal(size=(300, 5))
    centred = raw - raw.mean(0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred.T))).T
    sigma_a, sigma_b = np.array([1, 2, 3, 0.5, 0]), np.array([2, 2, 1, 1, 4])
    mu = np.array([0, 1, -2, 0, 3])
    distance = metrics.frechet_distance(statistics_of(white * sigma_a), statistics_of(white * sigma_b + mu))
    assert distance == pytest.approx((mu**2).sum() + ((sigma_a - sigma_b) ** 2).sum(), rel=1e-9)


def test_frechet_distance_agrees_with_a_matrix_square_root():
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(2)
    a = generator.normal(size=(400, 24)) @ generator.normal(size=(24, 24))
    b = generator.normal(size=(400, 24)) @ generator.normal(size=(24, 24)) + 0.5
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert metrics.frechet_distance(statistics_of(a), statistics_of(b)) == pytest.approx(expected, rel=1e-8)
    few = statistics_of(a[:10])  # fewer vectors than dimensions: a singular covariance
    assert metrics.frechet_distance(few, few) == pytest.approx(0, abs=1e-8)


def test_less_colour_is_farther_from_the_truth(truth):
    grey = metrics.feature_distance(faded(truth, 0), truth)
    half = metrics.feature_distance(faded(truth, 0.5), truth)
    assert (grey > half).all()
    assert (half > 0).all()
    assert (metrics.feature_distance(truth, truth) == 0).all()
    distance = metrics.fid([truth[:1], truth[1:]], [faded(truth, 0)], features="efficientnet-lite0")
    assert distance > metrics.fid([truth], [faded(truth, 0.5)], features="efficientnet-lite0") > 0
    assert metrics.fid([truth[:1], truth[1:]], [truth], features="efficientnet-lite0") == pytest.approx(0, abs=1e-4)


def test_semantic_recovery():
    assert metrics.semantic_recovery(0.6, 0.5, 0.7) == pytest.approx(0.5)
    assert metrics.semantic_recovery(0.4, 0.5, 0.7) == pytest.approx(-0.5)
    assert math.isnan(metrics.semantic_recovery(0.6, 0.7, 0.7))


def test_bad_input_is_named():
    picture = torch.rand(3, 16, 16)
    with pytest.raises(ValueError, match=r"same shape.*\(3, 16, 16\).*\(3, 8, 8\)"):
        metrics.psnr(picture, torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="must be RGB"):
        metrics.colorfulness(torch.rand(1, 16, 16))
    with pytest.raises(ValueError, match="at least 11×11"):
        metrics.ssim(torch.rand(3, 8, 8), torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="'inception'"):
        metrics.fid([picture[None]], [picture[None]], features="inception")
    with pytest.raises(ValueError, match="at least two pictures, got 1"):
        metrics.frechet_distance(statistics_of(np.ones((1, 3))), statistics_of(np.ones((4, 3))))
    with pytest.raises(ValueError, match="expected features"):
        metrics.GaussianStatistics(4).update(torch.rand(2, 3))
