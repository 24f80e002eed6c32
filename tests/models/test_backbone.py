"""`denoise`, which calls the UNet's blocks itself, against diffusers' own forward."""

import pytest
import torch

from seada_core import presets
from seada_core.models import backbone


@pytest.fixture(scope="module")
def unet(tiny_preset):
    torch.manual_seed(0)
    return backbone.build_unet(tiny_preset.unet).eval()


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12)])
@torch.no_grad()
def test_denoise_equals_diffusers_forward(unet, size):
    x, t, context = torch.randn(2, 4, *size), torch.tensor([3, 700]), torch.randn(2, 16, 32)
    # odd sizes: diffusers rounds up and passes each skip's size on, as we do
    expected = unet(x, t, encoder_hidden_states=context).sample
    torch.testing.assert_close(backbone.denoise(unet, x, t, context), expected, rtol=1e-4, atol=1e-5)
    fixed = backbone.fix(unet, t, context)
    torch.testing.assert_close(backbone.denoise(unet, x, t, context, fixed=fixed), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_is_fixed_for_all_steps_equals_each_step_computed_alone(unet):
    x, times, context = torch.randn(2, 4, 9, 7), torch.tensor([999, 400, 3]), torch.randn(2, 16, 32)
    fixed = backbone.fix(unet, times, context)
    for step, t in enumerate(times):
        expected = unet(x, t, encoder_hidden_states=context).sample
        found = backbone.denoise(unet, x, t, context, fixed=fixed.at(step))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_residuals_are_diffusers_controlnet_residuals(unet):
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 16, 32)
    emb = backbone.time_embedding(unet, t, x.dtype)
    residuals = [torch.randn_like(f) for f in backbone.encode(unet, x, backbone.Modules(emb, context))]
    expected = unet(
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
        unet = backbone.build_unet(presets.SD15.unet)
    sites = backbone.decoder_sites(unet)
    assert [c for c, _ in sites] == [1280] * 6 + [640] * 3 + [320] * 3
    assert [level for _, level in sites] == [3] * 3 + [2] * 3 + [1] * 3 + [0] * 3
    assert len(backbone.encoder_features(unet)) == 13


def test_zero_terminal_snr_schedule_ends_in_pure_noise(tiny_preset):
    scheduler = backbone.build_scheduler(tiny_preset.diffusion)
    assert scheduler.alphas_cumprod[-1] == 0
    z, noise = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    last = torch.tensor([999])
    torch.testing.assert_close(scheduler.add_noise(z, noise, last), noise)
    torch.testing.assert_close(scheduler.get_velocity(z, noise, last), -z)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999
