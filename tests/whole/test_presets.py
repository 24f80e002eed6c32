"""`sd15` at the papers' sizes on the meta device: published parameter counts, and consistent shapes."""

from dataclasses import fields, replace

import pytest
import torch

from seada_core.models import backbone
from seada_core.models.controlnet_rca import ControlNetRCA
from seada_core.presets import (
    MINI,
    PRESETS,
    SD15,
    DiffusionConfig,
    SamplingConfig,
    TextConfig,
    TrainConfig,
    UNetConfig,
    VAEConfig,
)
from seada_core.settings import from_dict, to_dict  # fmt: skip
from seada_core.train.stages import joint
from seada_core.weights import part_files, stable_diffusion
from seada_core.weights.stock_controlnet import build_controlnet


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def parts():
    """Every part of SD1.5's size, on the meta device."""
    with torch.device("meta"):
        found = {part: part_files.build(part, SD15) for part in part_files.SECTIONS if part != "captioner"}
        found["vae"] = stable_diffusion.build_vae(VAEConfig())
        found["controlnet"] = build_controlnet(SD15.unet)
    return found


def test_the_released_models_parameter_counts(parts):
    """Of runwayml's Stable Diffusion 1.5, OpenAI's CLIP ViT-L/14 text tower, and the ControlNets for it."""
    assert count(parts["unet"]) == 859_520_964
    assert count(parts["vae"]) == 83_653_863
    assert count(parts["semantic_encoder"]) == 123_060_480
    assert count(parts["controlnet"]) == 361_279_120


def test_rca_has_the_expected_number_of_parameters(parts):
    """Counted by hand: two group norms, query, key, value and output per site; feature widths differ at four sites."""
    control = parts["controlnet_rca"]
    assert len(control.rca) == 12
    assert count(control.rca) / 1e6 == pytest.approx(43.5, abs=0.05)
    features = [channels for channels, _ in backbone.encoder_features(parts["unet"])]
    by_hand = 0
    for site, feature in control.pairs.items():
        h, f = backbone.decoder_sites(parts["unet"])[site][0], features[feature]
        by_hand += 2 * h + 2 * f + h * h + 2 * h * f + h * h + h
    assert count(control.rca) == by_hand
    with torch.device("meta"):
        four = ControlNetRCA(parts["unet"], replace(SD15.control, sites="blocks"))
    assert len(four.rca) == 4 and count(four.rca) / 1e6 == pytest.approx(15.2, abs=0.05)
    # E_con is the UNet's encoder plus the four columns of conv_in for c_f
    unet = parts["unet"]
    half = sum(count(m) for m in (unet.conv_in, unet.time_embedding, unet.down_blocks, unet.mid_block))
    assert count(control.encoder) == half + 320 * 4 * 9
    assert control.zero_convs is None


def test_sizes_of_a_preset_are_consistent():
    for preset in (SD15, MINI):
        assert preset.adapter.width == preset.text.width == preset.unet.context_dim == preset.tokens.context_dim
        assert preset.adapter.length == preset.text.length
        assert preset.tokens.codes == preset.codec.codes
        assert preset.tokens.gray_channels == preset.codec.gray_channels[-1]
        assert preset.codec.latent_channels == preset.unet.in_channels == VAEConfig().latent_channels
    assert (SD15.text.length, SD15.text.width) == (77, 768)


def test_the_papers_numbers_are_the_presets():
    """SeAda, implementation details; EDN, Table 3, method and efficiency."""
    recipes = SD15.training
    assert [recipes[s].steps for s in ("stage1", "stage2", "stage3")] == [20_000, 50_000, 10_000]
    assert {n: recipes[n].steps for n in ("codec", "tokens", "ccd")} == {
        "codec": 44_000,
        "tokens": 42_000,
        "ccd": 50_000,
    }
    for recipe in (
        recipe for name, recipe in recipes.items() if name not in ("affinity", "people", "scenery")
    ):  # not in the papers
        assert (recipe.lr, recipe.batch, recipe.resolution, recipe.betas) == (1e-5, 32, 512, (0.9, 0.999))
        assert recipe.decay == 0 and recipe.warmup == 0
    assert recipes["ccd"].generic_prob == 0.5
    assert (joint.CCD_WEIGHT, joint.VQ_WEIGHT) == (0.1, 0.6)


def test_every_preset_lies_within_the_limits_of_its_fields():
    for preset in PRESETS.values():
        sections = [getattr(preset, of.name) for of in fields(preset) if of.name not in ("name", "training", "recipe")]
        for config in (*sections, *preset.training.values(), VAEConfig(), TrainConfig()):
            assert from_dict(type(config), to_dict(config)) == config


@pytest.mark.parametrize(
    "config, values, error, message",
    [
        (TextConfig, {"heads": 2000}, ValueError, "heads is 2000, expected 1 to 1024"),
        (TextConfig, {"width": 0}, ValueError, "width is 0, expected 1 to 65536"),
        (TextConfig, {"width": 1.5}, TypeError, "width is 1.5, expected int"),
        (TextConfig, {"depth": 3}, TypeError, "TextConfig has no field 'depth'"),
        (UNetConfig, {"channels": [32, -1]}, ValueError, "channels is -1, expected 1 to 65536"),
        (UNetConfig, {"channels": []}, TypeError, "expected 1 to 16 values"),
        (SamplingConfig, {"guidance": float("nan")}, ValueError, "guidance is nan, expected 0 to 100"),
        (
            DiffusionConfig,
            {"prediction": "x0"},
            ValueError,
            "is 'x0', expected one of epsilon, v_pre",
        ),
        (TrainConfig, {"optimizer": "lion"}, ValueError, "expected one of adamw, adamw8bit, sgd"),
    ],
)
def test_values_outside_of_a_fields_limits_are_refused(config, values, error, message):
    with pytest.raises(error, match=message):
        from_dict(config, values)


def test_a_step_at_512_pixels_has_the_papers_shapes(parts):
    meta = {"device": "meta"}
    z, context = torch.empty(2, 4, 64, 64, **meta), torch.empty(2, 77, 768, **meta)
    photo, t = torch.empty(2, 3, 512, 512, **meta), torch.empty(2, dtype=torch.long, **meta)
    control, hint = parts["controlnet_rca"], parts["hint_encoder"]
    features = control.encode(z, t, parts["semantic_adapter"](context), photo)
    assert features.condition.shape == (2, 4, 64, 64) and features.residuals is None
    asked = hint.encode(photo[:, :1], photo)
    hooks = [lambda i, h: control.attend(i, h, features), lambda i, h: hint.modulate(i, h, asked)]
    assert backbone.denoise(parts["unet"], z, t, context, None, hooks).shape == z.shape
    assert parts["vae"].encode(photo).latent_dist.mean.shape == z.shape
    codec = parts["vq_decoder"]
    assert codec.chroma(z, photo[:, :1]).shape == (2, 2, 512, 512)
    gray = codec.gray_features(photo[:, :1])
    tokens = torch.zeros(2, 64 * 64, dtype=torch.long, **meta)
    assert parts["token_diffusion"](tokens, t, tokens, gray[-1], context).shape == (2, 1024, 64 * 64)
