"""Eq. 3 against diffusers' scheduler, Eq. 4 against loops, guidance, and the hint encoder."""

import pytest
import torch
from diffusers import DDIMScheduler

from seada_core.color.spaces import ycbcr_to_rgb
from seada_core.models import backbone, ccd
from seada_core.models.unet import UNet


def test_predict_x0_equals_the_schedulers():
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    scheduler.set_timesteps(50)
    x_t, eps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for t in (980, 500, 20):
        expected = scheduler.step(eps, t, x_t).pred_original_sample
        torch.testing.assert_close(ccd.predict_x0(x_t, eps, scheduler.alphas_cumprod[t]), expected)


def test_palette_term_is_the_distance_to_the_nearest_colour():
    torch.manual_seed(0)
    rgb, gray, palette = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4), torch.rand(3, 2) - 0.5
    y = 0.299 * rgb[0, 0] + 0.587 * rgb[0, 1] + 0.114 * rgb[0, 2]
    cb, cr = (rgb[0, 2] - y) / 1.772, (rgb[0, 0] - y) / 1.402
    nearest = [
        min(float((cb[i, j] - c[0]) ** 2 + (cr[i, j] - c[1]) ** 2) for c in palette) for i in range(4) for j in range(4)
    ]
    assert float(ccd.losses(rgb, gray, palette=palette)["palette"]) == pytest.approx(sum(nearest) / 16, rel=1e-4)


def test_losses_against_loops():
    torch.manual_seed(0)
    rgb, gray = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    hints = torch.cat([torch.rand(2, 2, 8, 8) - 0.5, (torch.rand(2, 1, 8, 8) > 0.7).float()], dim=1)
    terms = ccd.losses(rgb, gray, hints, patch=4)
    for b in range(2):
        y = 0.299 * rgb[b, 0] + 0.587 * rgb[b, 1] + 0.114 * rgb[b, 2]
        chroma = torch.stack([(rgb[b, 2] - y) / 1.772, (rgb[b, 0] - y) / 1.402])
        patches = [
            abs(rgb[b, :, i : i + 4, j : j + 4].mean() - gray[b, :, i : i + 4, j : j + 4].mean())
            for i in (0, 4)
            for j in (0, 4)
        ]
        means = rgb[b].mean((1, 2))
        constancy = sum((means[m] - means[n]) ** 2 for m, n in ((0, 1), (0, 2), (1, 2)))
        smooth = hint = 0.0
        for i in range(8):
            for j in range(8):
                for c in range(2):
                    across = abs(chroma[c, i, j + 1] - chroma[c, i, j]) if j < 7 else 0
                    down = abs(chroma[c, i + 1, j] - chroma[c, i, j]) if i < 7 else 0
                    smooth += float(across + down) ** 2 / 64
                    hint += float(hints[b, 2, i, j] * (chroma[c, i, j] - hints[b, c, i, j]) ** 2) / 64
        expected = {
            "exposure": sum(patches) / 4,
            "constancy": constancy,
            "smoothness": smooth,
            "hint": hint,
            "luminance": (y - gray[b, 0]).pow(2).mean(),
        }
        assert set(expected) == set(terms)
        for name, value in expected.items():
            assert float(terms[name][b]) == pytest.approx(float(value), rel=1e-4), name


def test_losses_do_not_depend_on_resolution():
    rgb, gray = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
    hints = torch.cat([torch.full((1, 2, 32, 32), 0.2), torch.ones(1, 1, 32, 32)], dim=1)
    double = [torch.nn.functional.interpolate(x, scale_factor=2) for x in (rgb, gray, hints)]
    small, large = ccd.losses(rgb, gray, hints, patch=8), ccd.losses(*double, patch=16)
    for name in ("exposure", "constancy", "hint", "luminance"):
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-6)


def test_perfect_picture_has_no_loss():
    gray = torch.full((1, 1, 16, 16), 0.5)
    terms = ccd.losses(gray.expand(-1, 3, -1, -1), gray, torch.zeros(1, 3, 16, 16))
    assert all(float(v) < 1e-10 for v in terms.values())


def test_guide_moves_towards_a_hint_and_leaves_no_graph():
    gray = torch.full((1, 1, 8, 8), 0.5)
    hints = torch.zeros(1, 3, 8, 8)
    hints[:, 0], hints[:, 2] = 0.2, 1.0

    def loss(x0):  # a decoder that is the identity on the first two latent channels
        rgb = ycbcr_to_rgb(torch.cat([gray, x0[:, :2]], dim=1))
        return ccd.weighted({"hint": ccd.losses(rgb, gray, hints)["hint"]})

    with torch.inference_mode():
        x0 = torch.zeros(1, 4, 8, 8)
        moved = ccd.guide(x0, loss, scale=0.1)
    assert not moved.requires_grad
    # d/dx of the mean over 64 cells of (x - 0.2)^2, times 64 cells, times 0.1
    torch.testing.assert_close(moved[:, 0], torch.full((1, 8, 8), 0.04))
    assert moved[:, 1:].abs().max() < 1e-6


def test_hint_encoder_starts_as_identity_and_learns(tiny_preset):
    unet = UNet(tiny_preset.unet)
    encoder = ccd.HintEncoder(unet, tiny_preset.hint)
    x, t, context = torch.randn(1, 4, 9, 8), torch.tensor(5), torch.randn(1, 16, 32)
    gray, hints = torch.rand(1, 1, 72, 64), torch.rand(1, 3, 72, 64)

    def run():
        features = encoder.encode(gray, hints)
        return backbone.denoise(unet, x, t, context, hooks=[lambda i, h: encoder.modulate(i, h, features)])

    torch.testing.assert_close(run(), backbone.denoise(unet, x, t, context), rtol=0, atol=0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        run().pow(2).mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())
    assert not torch.equal(run(), backbone.denoise(unet, x, t, context))
    hints.zero_()  # a trained encoder still changes nothing where there are no hints
    torch.testing.assert_close(run(), backbone.denoise(unet, x, t, context), rtol=0, atol=0)


class PlainDecoder:
    """A decoder whose colours are the latent's first two channels, each cell an 8×8 block of pixels."""

    def __init__(self):
        self.decoded = 0

    def gray_features(self, gray):
        return [gray, torch.nn.functional.avg_pool2d(gray, 8)]

    def cell_chroma(self, z, features):
        assert len(features[-1]) == len(z)
        return z[:, :2]

    def chroma(self, z, gray, features):
        self.decoded += 1
        return torch.nn.functional.interpolate(z[:, :2], scale_factor=8)


def test_guidance_moves_cells_towards_hints_as_often_as_asked():
    target = torch.zeros(1, 3, 2, 4)
    target[:, 0, :, :2], target[:, 2, :, :2] = 0.2, 1.0
    decoder, saturation, scale = PlainDecoder(), 1.5, 0.05
    for moves in (1, 3):
        guidance = ccd.Guidance(
            decoder, torch.rand(1, 1, 16, 32), target, saturation=saturation, scale=scale, moves=moves
        )
        x0 = torch.randn(3, 4, 2, 4)  # one photo and its hints, for each of three latents
        expected, gain = x0.clone(), ccd.PROBE_GAIN * saturation
        for _ in range(moves):
            # d/dx of the mean over 8 cells of (gain x - hint)^2, times 8 cells, times the scale; where a hint is
            step = 2 * scale * gain * (gain * expected[:, :2] - target[:, :2]) * target[:, 2:]
            expected[:, :2] -= step
        torch.testing.assert_close(guidance(x0), expected)
    assert decoder.decoded == 0


def test_guidance_by_pixels_decodes_once_a_step_and_adds_to_that_by_cells():
    gray, colors = torch.full((2, 1, 16, 16), 0.5), torch.tensor([[0.1, 0.1], [0.0, 0.0]])
    x0 = 0.1 * torch.randn(2, 4, 2, 2)
    decoder = PlainDecoder()
    by_cell = ccd.Guidance(decoder, gray, colors=colors, scale=0.1)
    by_pixel = ccd.Guidance(decoder, gray, weights={"smoothness": 0.5}, scale=0.1)
    both = ccd.Guidance(decoder, gray, colors=colors, weights={"smoothness": 0.5}, scale=0.1)
    assert not torch.equal(by_cell(x0), x0) and decoder.decoded == 0
    assert not torch.equal(by_pixel(x0), x0) and decoder.decoded == 1
    torch.testing.assert_close(both(x0), by_pixel(by_cell(x0)))
