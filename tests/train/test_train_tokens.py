"""Stage tokens: what it trains, and the corruption that stands for a first step's mistakes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from training import make_batch

from seada_core.color.spaces import rgb_to_ycbcr, ycbcr_to_rgb
from seada_core.models.token_diffusion import TokenDiffusion
from seada_core.models.vq_decoder import VQDecoder
from seada_core.presets import CodecConfig, TokenConfig, TrainConfig
from seada_core.train.batches import Batch
from seada_core.train.draws import Draws
from seada_core.train.stages.tokens import RIGHT, TokensStage, corrupt, severities

TINY = TokenConfig(codes=7, width=32, layers=2, heads=2, context_dim=12, steps=100, gray_channels=5)


class Text(nn.Module):
    """A stand-in for the semantic encoder: one embedding a string."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 12)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([[len(text)] * 3 for text in texts])
        return self.embedding(lengths), torch.ones(len(texts), 3, dtype=torch.bool)


def tokens_stage(**changes) -> TokensStage:
    torch.manual_seed(0)
    codec = VQDecoder(CodecConfig(codes=TINY.codes, channels=(4, 4, 8, 8), gray_channels=(4, 4, 4, 5)))
    parts = {"vq_decoder": codec, "semantic_encoder": Text(), "semantic_adapter": nn.Linear(12, 12)}
    parts["token_diffusion"] = TokenDiffusion(dataclasses.replace(TINY, **changes))
    return TokensStage(parts, TrainConfig())


def batch_of_three() -> Batch:
    generator = torch.Generator().manual_seed(10)
    rgb, latent = torch.rand(3, 3, 32, 48, generator=generator), torch.randn(3, 4, 4, 6, generator=generator)
    return make_batch(rgb, latent, captions=["a", "bc", "def"], color_captions=["", "", ""])


def test_the_stage_trains_token_diffusion_alone_and_repeats_for_a_seed():
    stage, batch = tokens_stage().train(), batch_of_three()
    before = {name: p.clone() for name, p in stage.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=1e-2)
    for step in range(12):
        torch.manual_seed(step)
        terms = stage(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    for name, parameter in stage.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("token_diffusion."), name
    assert 0 < terms["z_accuracy"] <= 1
    stage.eval()
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(stage(batch)["loss"].item())
    assert results[0] == results[1]
    with torch.autocast("cpu", torch.bfloat16):
        terms = stage.train()(batch)
        terms["loss"].backward()
        stage.eval()
        torch.manual_seed(5)
        assert stage(batch)["loss"].item() == pytest.approx(results[0], rel=0.05)
    assert list(stage.parts()) == ["token_diffusion"]
    pictures = stage.preview(batch)
    assert all(p.shape == batch.rgb.shape and p.min() >= 0 and p.max() <= 1 for p in pictures.values())
    x0 = stage.pair(batch, Draws(batch.seeds))[0]
    assert torch.equal(x0, stage.codec.encode_tokens(batch.latent, rgb_to_ycbcr(batch.rgb)[:, :1]))


def test_the_stage_refuses_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="7 codes and 6 grey channels, but vq_decoder has 7 and 5"):
        tokens_stage(gray_channels=6)


def test_a_share_of_the_first_steps_is_right_and_small_severities_are_common():
    drawn = severities(Draws(range(4000)))
    assert (drawn == 0).float().mean().item() == pytest.approx(RIGHT, abs=0.03)
    assert drawn.min() >= 0 and drawn.max() < 1
    # of the rest, the square root is uniform: half lie below 1 / 4
    assert (drawn[drawn > 0] < 0.25).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_corruption_grows_with_severity_from_nothing():
    torch.manual_seed(0)
    rgb, z = torch.rand(300, 3, 32, 32), torch.randn(300, 4, 4, 4)
    draws = Draws(range(300))
    assert torch.equal(corrupt(z, rgb, torch.zeros(300), draws), z)
    moved = [corrupt(z, rgb, torch.full((300,), u), draws) - z for u in (0.1, 0.4, 1.0)]
    distance = [difference.square().mean().sqrt().item() for difference in moved]
    assert 0.005 < distance[0] < 0.1 < distance[1] < distance[2] < 1.0


def test_chroma_moves_taesd_latents_as_the_corruption_says(data_dir):
    """Against TAESD itself: encode a photo with its chroma scaled; the linear move explains part of the change."""
    import numpy as np
    from diffusers import AutoencoderTiny
    from PIL import Image
    from safetensors.torch import load_file

    from seada_core.train.stages.tokens import CHROMA_TO_LATENT

    weights = load_file(data_dir / "taesd" / "taesd_encoder.safetensors")
    vae = AutoencoderTiny()
    vae.encoder.layers.load_state_dict({name: weight.float() for name, weight in weights.items()})
    moved = unexplained = 0.0
    for path in sorted((data_dir / "test" / "kodak24").glob("*.png"))[1:24:16]:
        photo = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy())[128:256, 128:256]
        ycbcr = rgb_to_ycbcr(photo.permute(2, 0, 1)[None] / 255)
        muted = ycbcr * torch.tensor([1, 0.6, 0.6])[:, None, None]
        with torch.no_grad():
            z, z_muted = (vae.encoder(2 * ycbcr_to_rgb(x) - 1) for x in (ycbcr, muted))
        change = nn.functional.avg_pool2d((muted - ycbcr)[:, 1:], 8)
        predicted = torch.einsum("dc,bchw->bdhw", torch.tensor(CHROMA_TO_LATENT), change)
        moved += (z_muted - z).square().sum().item()
        unexplained += (z_muted - z - predicted).square().sum().item()
    assert unexplained < 0.8 * moved
