import dataclasses
import io
import math
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from training import make_batch

from seada_core.models.vq_decoder import VQDecoder
from seada_core.presets import CodecConfig
from seada_core.settings import from_dict, to_dict
from seada_core.train.batches import Batch
from seada_core.train.sources import DataError
from seada_core.train.stages.codec import CodecStage, load_taesd, start_from_taesd

SMALL = CodecConfig(codes=64, channels=(8, 12, 16, 24), blocks=(1, 1, 1, 1), gray_channels=(8, 8, 12, 16))
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def trained_looking(config=SMALL, seed=0) -> VQDecoder:
    """A codec without zero-initialised weights, so that every path has an influence."""
    torch.manual_seed(seed)
    codec = VQDecoder(config)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        codec.decoder.chroma.weight.mul_(0.3)
    return codec.eval()


def test_at_first_the_grey_photo_changes_nothing_but_luminance():
    torch.manual_seed(0)
    codec, z = VQDecoder(SMALL), torch.randn(2, 4, 3, 4)
    dark, bright = codec.chroma(z, torch.zeros(2, 1, 24, 32)), codec.chroma(z, torch.rand(2, 1, 24, 32))
    assert torch.equal(dark, bright)
    assert dark.std() > 1e-3


def test_equation_5_level_by_level():
    codec = trained_looking()
    gray, z = torch.rand(1, 1, 16, 24), torch.randn(1, 4, 2, 3)
    decoder, features = codec.decoder, codec.gray_features(gray)

    def residual(block, x):
        h = block.conv2(block.conv1(x).clamp(min=0)).clamp(min=0)
        return (x + block.conv3(h)).clamp(min=0)

    def inject(level, f_d):  # F_D' = F_D + Conv1x1(F_G), the 1x1 convolution as a product of matrices
        weight, bias = decoder.maps[level].weight[:, :, 0, 0], decoder.maps[level].bias
        return f_d + torch.einsum("oc,bchw->bohw", weight, features[level]) + bias[None, :, None, None]

    x = decoder.stem(3 * torch.tanh(z / 3)).clamp(min=0)
    for level in (3, 2, 1, 0):
        x = inject(level, x)
        for block in decoder.levels[level]:
            x = residual(block, x)
        if level > 0:
            x = decoder.ups[level - 1](x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    torch.testing.assert_close(codec.chroma(z, gray), decoder.chroma(x), atol=1e-5, rtol=1e-4)


def taesd_decoder() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """diffusers' TAESD decoder with random weights, and these under the names of TAESD's own file."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    decoder = AutoencoderTiny().decoder.eval()
    return decoder, {f"{int(n.split('.')[1]) + 1}.{n.split('.', 2)[2]}": t for n, t in decoder.state_dict().items()}


@torch.no_grad()
def test_a_codec_initialised_from_taesd_gives_its_colours():
    taesd, weights = taesd_decoder()
    codec = VQDecoder(CodecConfig(codes=8, channels=(64,) * 4, blocks=(1, 3, 3, 5))).eval()
    assert start_from_taesd(codec.decoder, weights) == len(weights)
    z, gray = 2 * torch.randn(2, 4, 4, 6), torch.rand(2, 1, 32, 48)
    rgb = (taesd(z) + 1) / 2  # TAESD's own weights give [0, 1]; diffusers rescales
    weights_of_chroma = torch.tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    torch.testing.assert_close(
        codec.chroma(z, gray), torch.einsum("kc,bchw->bkhw", weights_of_chroma, rgb), atol=1e-4, rtol=1e-3
    )


def test_taesds_layers_of_other_sizes_are_skipped_and_other_files_refused(tmp_path):
    _, weights = taesd_decoder()
    codec = VQDecoder(CodecConfig(codes=8, channels=(24, 64, 64, 64)))
    left_out = {"17.weight", "19.weight"} | {n for n in weights if n.startswith("18.")}
    assert start_from_taesd(codec.decoder, weights) == len(weights) - len(left_out)
    save_file({"encoder.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="not TAESD's decoder"):
        load_taesd(codec.decoder, str(tmp_path / "other.safetensors"))
    with pytest.raises(DataError, match="not TAESD's decoder"):
        load_taesd(codec.decoder, str(tmp_path / "none.safetensors"))
    save_file(weights, tmp_path / "taesd.safetensors")
    with pytest.raises(DataError, match="nothing fits"):
        load_taesd(VQDecoder(replace(SMALL, channels=(8, 12, 16, 24))).decoder, str(tmp_path / "taesd.safetensors"))


def test_grey_features_mirror_the_decoder():
    codec = trained_looking()
    shapes = [tuple(f.shape) for f in codec.gray_features(torch.rand(2, 1, 30, 17))]
    assert shapes == [(2, 8, 32, 24), (2, 8, 16, 12), (2, 12, 8, 6), (2, 16, 4, 3)]


def test_luminance_is_the_photos_own():
    codec = trained_looking()
    gray = torch.rand(2, 1, 32, 40)
    with torch.no_grad():
        rgb = codec.decode(3 * torch.randn(2, 4, 4, 5), gray)
    assert rgb.min() >= 0 and rgb.max() <= 1
    assert (rgb.amax(1) - rgb.amin(1)).mean() > 0.01
    torch.testing.assert_close((rgb * LUMA).sum(1, keepdim=True), gray, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 7), (13, 64), (50, 33)])
def test_any_size(size):
    codec = trained_looking()
    height, width = size
    h, w = math.ceil(height / 8), math.ceil(width / 8)
    gray, z = torch.rand(1, 1, height, width), torch.randn(1, 4, h, w)
    tokens = codec.encode_tokens(z, gray)
    assert tokens.shape == (1, h * w) and tokens.dtype == torch.long
    with torch.no_grad():
        assert codec.decode(z, gray).shape == codec.decode_tokens(tokens, gray).shape == (1, 3, height, width)
        # Padding by hand and cropping gives the same picture.
        padded = np.pad(gray.numpy(), ((0, 0), (0, 0), (0, 8 * h - height), (0, 8 * w - width)), mode="edge")
        by_hand = codec.decode(z, torch.from_numpy(padded))[..., :height, :width]
        torch.testing.assert_close(codec.decode(z, gray), by_hand)


def test_a_larger_grey_photo_takes_the_latent_resized():
    codec = trained_looking()
    z, gray = torch.randn(1, 4, 4, 4), torch.rand(1, 1, 64, 56)
    resized = F.interpolate(z, size=(8, 7), mode="bilinear")
    with torch.no_grad():
        assert torch.equal(codec.decode(z, gray), codec.decode(resized, gray))
        assert torch.equal(codec.encode_tokens(z, gray), codec.encode_tokens(resized, gray))


@pytest.mark.parametrize("margin", [128, pytest.param(256, marks=pytest.mark.slow)])
def test_tiles_equal_the_whole_picture(margin):
    """Pixels beyond the margin hardly matter; at 256 px, beyond the receptive field here, not at all."""
    codec = trained_looking()
    gray, z = torch.rand(2, 1, 180, 700), torch.randn(2, 4, 22, 88)
    whole, tiled = codec.chroma(z, gray), codec.chroma_tiled(z, gray, 64, margin)
    assert (whole - tiled).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("code_dim", [1, 2, 4])
def test_tokens_are_the_nearest_codes_and_idempotent(code_dim):
    codec = trained_looking(dataclasses.replace(SMALL, code_dim=code_dim))
    gray, z = torch.rand(2, 1, 32, 24), torch.randn(2, 4, 4, 3)
    with torch.no_grad():
        features = codec.gray_features(gray)
        z_hat, tokens, _ = codec.quantize(z, gray)
        mean = codec.mean(features[-1])
        for b in range(2):
            for i in range(12):
                vector = codec.projection @ (z[b, :, i // 3, i % 3] - mean[b, :, i // 3, i % 3])
                distances = [float((vector - code).square().sum()) for code in codec.codebook]
                assert tokens[b, i] == min(range(len(distances)), key=distances.__getitem__)
        assert torch.equal(tokens, codec.encode_tokens(z, gray))
        assert torch.equal(tokens, codec.encode_tokens(z_hat, gray))
        torch.testing.assert_close(z_hat, codec.dequantize(tokens, features), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(codec.decode_tokens(tokens, gray), codec.decode(z_hat, gray), atol=1e-5, rtol=1e-4)


def test_large_photos_are_compared_in_parts(monkeypatch):
    codec = trained_looking()
    gray, z = torch.rand(1, 1, 40, 40), torch.randn(1, 4, 5, 5)
    whole = codec.encode_tokens(z, gray)
    monkeypatch.setattr("seada_core.models.vq_decoder._NEAREST_CHUNK", 7)
    assert torch.equal(whole, codec.encode_tokens(z, gray))


def test_a_picture_alone_or_in_a_batch_is_the_same():
    codec = trained_looking()
    gray, z = torch.rand(3, 1, 24, 24), torch.randn(3, 4, 3, 3)
    with torch.no_grad():
        batch = codec.decode(z, gray)
        for i in range(3):
            torch.testing.assert_close(codec.decode(z[i : i + 1], gray[i : i + 1]), batch[i : i + 1], atol=1e-6, rtol=0)


def test_bad_input():
    codec = trained_looking()
    gray, z = torch.rand(1, 1, 16, 16), torch.randn(1, 4, 2, 2)
    with pytest.raises(ValueError, match="gray must be"):
        codec.decode(z, torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="z must be"):
        codec.decode(z[:, :3], gray)
    with pytest.raises(ValueError, match="tokens"):
        codec.decode_tokens(torch.zeros(1, 5, dtype=torch.long), gray)
    with pytest.raises(ValueError, match="code_dim"):
        VQDecoder(dataclasses.replace(SMALL, code_dim=5))


def test_half_precision_weights_and_a_safetensors_round_trip(tmp_path):
    codec = trained_looking()
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    again = VQDecoder(from_dict(CodecConfig, to_dict(SMALL)))
    again.load_state_dict(load_file(tmp_path / "codec.safetensors"))
    gray, z = torch.rand(1, 1, 16, 16), torch.randn(1, 4, 2, 2)
    with torch.no_grad():
        expected = codec.decode(z, gray)
        assert torch.equal(again.decode(z, gray), expected)
        half = again.bfloat16().decode(z, gray)
    assert half.dtype == gray.dtype
    torch.testing.assert_close(half, expected, atol=0.05, rtol=0)


def batch_of(rgb: torch.Tensor, codec_seed=0) -> Batch:
    generator = torch.Generator().manual_seed(codec_seed)
    # An invertible mixture of the cells' mean colours and noise replaces the encoder.
    means = F.avg_pool2d(rgb, 8)
    extra = torch.randn(means[:, :1].shape, generator=generator)
    return make_batch(rgb, torch.cat([4 * (means - 0.5), extra], 1))


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    stage = CodecStage(VQDecoder(SMALL))
    batch = batch_of(torch.rand(4, 3, 32, 32))
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.05)
    for _ in range(2):  # the grey encoder gets gradients once its zero-initialised maps have changed
        optimizer.zero_grad()
        stage(batch)["loss"].backward()
        optimizer.step()
    silent = [name for name, p in stage.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_loss_terms_against_pictures():
    """L1 and MSE as measured on whole RGB pictures with the photo's luminance."""
    torch.manual_seed(0)
    stage = CodecStage(VQDecoder(SMALL)).eval()
    rgb = torch.rand(2, 3, 32, 64)
    batch = batch_of(rgb)
    with torch.no_grad():
        losses = stage(batch)
        gray = (rgb * LUMA).sum(1, keepdim=True)
        z_hat = stage.codec.quantize(batch.latent[:1], gray[:1])[0]
        cb, cr = stage.codec.chroma(torch.cat([z_hat, batch.latent[1:]]), gray).unbind(1)
        y = gray[:, 0]  # JFIF's inverse transform
        out = torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 1)
    torch.testing.assert_close(losses["l1"], (out - rgb).abs().mean(), atol=1e-5, rtol=1e-4)
    log_mse = ((out - rgb).square().mean((1, 2, 3)) + 1e-4).log().mean()
    torch.testing.assert_close(losses["log_mse"], log_mse, atol=1e-4, rtol=1e-4)
    error = (out - rgb).numpy()
    blocks = [error.reshape(2, 3, 32 // n, n, 64 // n, n).mean((3, 5)) for n in (8, 32)]
    assert float(losses["cast"]) == pytest.approx(sum(np.abs(b).mean() for b in blocks), rel=1e-3)
    first, second = (-10 * math.log10(float(d.square().mean())) for d in out - rgb)
    assert float(losses["psnr_codes"]) == pytest.approx(first, abs=1e-3)
    assert float(losses["psnr"]) == pytest.approx(second, abs=1e-3)


def test_codebook_update_against_a_loop():
    torch.manual_seed(0)
    stage = CodecStage(VQDecoder(dataclasses.replace(SMALL, codes=8)), decay=0.9)
    stage.codec.usage.copy_(torch.rand(8) + 3)
    usage, codebook = stage.codec.usage.clone(), stage.codec.codebook.clone()
    vectors, tokens = torch.randn(2, 15, 4), torch.randint(0, 8, (2, 15))
    stage.update_codebook(vectors, tokens)
    for code in range(8):
        members = [vectors[b, i] for b in range(2) for i in range(15) if tokens[b, i] == code]
        count = 0.9 * usage[code] + 0.1 * len(members)
        total = 0.9 * usage[code] * codebook[code] + 0.1 * (sum(members) if members else torch.zeros(4))
        torch.testing.assert_close(stage.codec.codebook[code], total / count, atol=1e-5, rtol=1e-4)


def test_unused_codes_restart_on_vectors_of_the_batch():
    torch.manual_seed(0)
    stage = CodecStage(VQDecoder(dataclasses.replace(SMALL, codes=8)))
    stage.codec.usage.fill_(4.0)
    stage.codec.usage[5] = 1e-4
    vectors = torch.randn(1, 32, 4)
    stage.update_codebook(vectors, torch.zeros(1, 32, dtype=torch.long))
    assert (vectors[0] - stage.codec.codebook[5]).abs().sum(1).min() < 1e-5


def test_evaluation_does_not_change_the_codebook():
    torch.manual_seed(0)
    stage = CodecStage(VQDecoder(SMALL)).eval()
    before = stage.codec.codebook.clone()
    stage(batch_of(torch.rand(2, 3, 16, 16)))
    assert torch.equal(before, stage.codec.codebook)


def photos(data_dir, count: int) -> torch.Tensor:
    with tarfile.open(data_dir / "core-000.tar") as tar:
        names = [m for m in tar.getmembers()[: 4 * count] if m.name.endswith((".jpg", ".webp"))][:count]
        pictures = [Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB") for m in names]
    return torch.stack([torch.from_numpy(np.array(p))[40:72, 40:72].permute(2, 0, 1) / 255 for p in pictures])


@pytest.mark.slow
def test_the_stage_overfits_a_few_photos(data_dir):
    torch.manual_seed(0)
    stage = CodecStage(VQDecoder(SMALL))
    batch = batch_of(photos(data_dir, 4))
    optimizer = torch.optim.Adam(stage.parameters(), lr=3e-3)
    first = stage(batch)
    for _ in range(120):
        optimizer.zero_grad()
        losses = stage(batch)
        losses["loss"].backward()
        optimizer.step()
    assert losses["loss"] < 0.3 * first["loss"]
    rgb, gray = batch.rgb, (batch.rgb * LUMA).sum(1, keepdim=True)
    with torch.no_grad():
        previews = stage.eval().preview(batch)
    for name, seen in (("codes", slice(0, 4, 2)), ("decode", slice(1, 4, 2))):  # each half as it was trained
        error = (previews[name] - rgb)[seen].square().mean()
        assert error < 0.2 * (gray - rgb)[seen].square().mean(), name
    assert stage.parts()["vq_decoder"] is stage.codec
