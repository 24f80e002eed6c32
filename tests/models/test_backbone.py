"""The UNet, its blocks and the noise schedule against diffusers' own."""

import copy

import pytest
import torch

from seada_core import presets
from seada_core.models import backbone
from seada_core.models.schedule import NoiseSchedule
from seada_core.models.unet import UNet
from seada_core.weights.export import diffusers_scheduler, diffusers_unet


@pytest.fixture(scope="module")
def unet(tiny_preset):
    torch.manual_seed(0)
    return UNet(tiny_preset.unet).eval()


@pytest.fixture(scope="module")
def theirs(unet):
    return diffusers_unet(unet)


@pytest.mark.parametrize("config", [presets.MINI.unet, presets.SD15.unet], ids=["mini", "sd15"])
def test_weights_have_diffusers_names_shapes_and_order(config):
    with torch.device("meta"):
        ours = UNet(config).state_dict()
        expected = diffusers_unet(UNet(config)).state_dict()
    assert [(name, tensor.shape) for name, tensor in ours.items()] == [(n, t.shape) for n, t in expected.items()]


def test_weights_start_as_diffusers_do(unet):
    torch.manual_seed(0)
    expected = type(diffusers_unet(unet)).from_config(diffusers_unet(unet).config).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_forward_and_gradients_are_diffusers_to_the_bit(tiny_preset, training):
    torch.manual_seed(1)
    ours = UNet(tiny_preset.unet).train(training)
    x, t, context = torch.randn(2, 4, 9, 7), torch.tensor([3, 700]), torch.randn(2, 16, 32)
    theirs = copy.deepcopy(diffusers_unet(ours))
    found, expected = backbone.denoise(ours, x, t, context), theirs(x, t, encoder_hidden_states=context).sample
    assert torch.equal(found, expected)
    found.square().sum().backward(), expected.square().sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert all(torch.equal(p.grad, gradients[name]) for name, p in ours.named_parameters())


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12)])
@torch.no_grad()
def test_denoise_equals_diffusers_forward(unet, theirs, size):
    x, t, context = torch.randn(2, 4, *size), torch.tensor([3, 700]), torch.randn(2, 16, 32)
    # odd sizes: diffusers rounds up and passes each skip's size on, as we do
    expected = theirs(x, t, encoder_hidden_states=context).sample
    torch.testing.assert_close(backbone.denoise(unet, x, t, context), expected, rtol=1e-4, atol=1e-5)
    fixed = backbone.fix(unet, t, context)
    torch.testing.assert_close(backbone.denoise(unet, x, t, context, fixed=fixed), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_is_fixed_for_all_steps_equals_each_step_computed_alone(unet, theirs):
    x, times, context = torch.randn(2, 4, 9, 7), torch.tensor([999, 400, 3]), torch.randn(2, 16, 32)
    fixed = backbone.fix(unet, times, context)
    for step, t in enumerate(times):
        expected = theirs(x, t, encoder_hidden_states=context).sample
        found = backbone.denoise(unet, x, t, context, fixed=fixed.at(step))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_residuals_are_diffusers_controlnet_residuals(unet, theirs):
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 16, 32)
    emb = backbone.time_embedding(unet, t, x.dtype)
    residuals = [torch.randn_like(f) for f in backbone.encode(unet, x, backbone.Modules(emb, context))]
    expected = theirs(
        x,
        t,
        encoder_hidden_states=context,
        down_block_additional_residuals=tuple(residuals[:-1]),
        mid_block_additional_residual=residuals[-1],
    ).sample
    torch.testing.assert_close(backbone.denoise(unet, x, t, context, residuals), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hooks_see_every_site_with_the_announced_shape(unet):
    seen = {}

    def hook(site, h):
        seen[site] = tuple(h.shape[1:])
        return h

    backbone.denoise(unet, torch.randn(1, 4, 16, 16), torch.tensor(5), torch.randn(1, 16, 32), hooks=[hook])
    sites = backbone.decoder_sites(unet)
    assert seen == {i: (c, 16 >> level, 16 >> level) for i, (c, level) in enumerate(sites)}


def test_sd15_has_twelve_sites_and_thirteen_features():
    with torch.device("meta"):
        unet = UNet(presets.SD15.unet)
    sites = backbone.decoder_sites(unet)
    assert [c for c, _ in sites] == [1280] * 6 + [640] * 3 + [320] * 3
    assert [level for _, level in sites] == [3] * 3 + [2] * 3 + [1] * 3 + [0] * 3
    assert len(backbone.encoder_features(unet)) == 13


@pytest.mark.parametrize("preset", [presets.MINI, presets.SD15], ids=lambda preset: preset.name)
def test_the_schedule_is_diffusers(preset):
    ours, theirs = NoiseSchedule(preset.diffusion), diffusers_scheduler(preset.diffusion)
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    z, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    assert torch.equal(ours.add_noise(z, noise, t), theirs.add_noise(z, noise, t))
    assert torch.equal(ours.velocity(z, noise, t), theirs.get_velocity(z, noise, t))
    for steps in (1, 3, 7, 20, 50, 999, 1000):
        theirs.set_timesteps(steps)
        assert ours.timesteps(steps) == theirs.timesteps.tolist()


def test_zero_terminal_snr_schedule_ends_in_pure_noise(tiny_preset):
    schedule = NoiseSchedule(tiny_preset.diffusion)
    assert schedule.alphas_cumprod[-1] == 0
    z, noise = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    last = torch.tensor([999])
    torch.testing.assert_close(schedule.add_noise(z, noise, last), noise)
    torch.testing.assert_close(schedule.velocity(z, noise, last), -z)
    assert schedule.timesteps(20)[0] == 999
