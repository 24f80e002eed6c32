"""Mapper, conditional encoder, RCA: shapes, zero initialisation, and gradients."""

from dataclasses import replace

import pytest
import torch

from seada_core.models import backbone
from seada_core.models.controlnet_rca import RCA, ConditionalEncoder, ControlNetRCA, Mapper
from seada_core.models.unet import UNet


@pytest.fixture
def unet(tiny_preset):
    torch.manual_seed(0)
    return UNet(tiny_preset.unet).eval()


def run(unet, control, strength=1.0, size=(8, 8)):
    torch.manual_seed(1)
    z, t, context = torch.randn(2, 4, *size), torch.tensor([3, 700]), torch.randn(2, 16, 32)
    condition = torch.rand(2, 3, size[0] * 8, size[1] * 8)
    features = control.encode(z, t, context, condition, strength)
    return backbone.denoise(
        unet, z, t, context, features.residuals, [lambda i, h: control.attend(i, h, features)]
    ), backbone.denoise(unet, z, t, context)


def test_mapper_goes_from_512_to_64():
    assert Mapper()(torch.rand(1, 3, 512, 512)).shape == (1, 4, 64, 64)


def test_conditional_encoder_starts_as_the_unets_encoder(unet):
    encoder = ConditionalEncoder(unet)
    z, t, context, c_f = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 16, 32), torch.randn(1, 4, 8, 8)
    emb = backbone.time_embedding(unet, t, z.dtype)
    features = backbone.encode(unet, z, backbone.Modules(emb, context))
    for ours, theirs in zip(encoder(z, t, context, c_f), features, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert encoder.conv_in.weight[:, 4:].abs().max() == 0


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("sites", ["all", "blocks"])
def test_untrained_control_changes_nothing_and_learns_everywhere(unet, tiny_preset, additive, sites):
    control = ControlNetRCA(unet, replace(tiny_preset.control, additive=additive, sites=sites))
    with_control, without = run(unet, control)
    torch.testing.assert_close(with_control, without, rtol=0, atol=1e-6)
    # the zero layers move first, then conv_in's columns for c_f behind them, then the mapper behind those
    optimizer = torch.optim.SGD(control.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        run(unet, control)[0].pow(2).mean().backward()
        optimizer.step()
    idle = [name for name, p in control.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not idle


@torch.no_grad()
def test_rca_is_attention_by_explicit_loop():
    torch.manual_seed(0)
    rca = RCA(16, 8, head_dim=8, groups=4)
    torch.nn.init.normal_(rca.to_out.weight)
    h, f = torch.randn(1, 16, 2, 3), torch.randn(1, 8, 2, 3)
    q = rca.to_q(rca.norm_h(h).flatten(2).mT)[0]
    k, v = (layer(rca.norm_f(f).flatten(2).mT)[0] for layer in (rca.to_k, rca.to_v))
    out = torch.zeros(6, 16)
    for head in range(2):
        part = slice(head * 8, head * 8 + 8)
        for i in range(6):
            scores = torch.stack([(q[i, part] * k[j, part]).sum() / 8**0.5 for j in range(6)])
            weights = scores.exp() / scores.exp().sum()
            out[i, part] = sum(weights[j] * v[j, part] for j in range(6))
    torch.testing.assert_close(rca(h, f), rca.to_out(out).mT.reshape(1, 16, 2, 3), rtol=1e-4, atol=1e-5)


def test_sites(unet, tiny_preset):
    everywhere = ControlNetRCA(unet, tiny_preset.control)
    blocks = ControlNetRCA(unet, replace(tiny_preset.control, sites="blocks"))
    assert list(everywhere.pairs) == [0, 1, 2, 3, 4, 5] and list(blocks.pairs) == [1, 3, 5]
    assert 0 not in everywhere.pairs.values()  # conv_in's raw output is never attended to
    with pytest.raises(ValueError, match="sites"):
        ControlNetRCA(unet, replace(tiny_preset.control, sites="some"))


@torch.no_grad()
def test_a_known_condition_needs_no_mapper(unet, tiny_preset):
    control = ControlNetRCA(unet, tiny_preset.control)
    given = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 16, 32), torch.rand(2, 3, 64, 64)
    torch.nn.init.normal_(control.encoder.conv_in.weight[:, 4:])
    features = control.encode(*given)
    mapper, control.mapper = control.mapper, None
    again = control.encode(*given, c_f=features.condition)
    assert all(torch.equal(a, b) for a, b in zip(features.maps, again.maps, strict=True))
    assert not torch.equal(control.encode(*given, c_f=mapper(1 - given[3])).maps[0], features.maps[0])


@torch.no_grad()
def test_odd_latents_and_wrong_condition(unet, tiny_preset):
    control = ControlNetRCA(unet, tiny_preset.control)
    assert run(unet, control, size=(9, 5))[0].shape == (2, 4, 9, 5)
    with pytest.raises(ValueError, match="8 times the latent"):
        control.encode(torch.randn(1, 4, 8, 8), torch.tensor(1), torch.randn(1, 16, 32), torch.rand(1, 3, 60, 64))
