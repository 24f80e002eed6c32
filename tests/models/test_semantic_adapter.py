"""Eq. 2, 3 and 5 against loops, and the ablation switches."""

import math
from dataclasses import replace

import pytest
import torch
from small_sd15 import transformers_text

from seada_core.models.semantic_adapter import SemanticAdapter, SemanticEncoder, representation_loss
from seada_core.models.tokenizer import Tokenizer
from seada_core.presets import AdapterConfig, TextConfig

CONFIG = AdapterConfig(length=5, width=8)


@torch.no_grad()
def test_eq3_against_a_loop():
    torch.manual_seed(0)
    adapter = SemanticAdapter(CONFIG)
    torch.nn.init.normal_(adapter.mlp[2].weight)
    e_g = torch.randn(2, 5, 8)
    got = adapter(e_g)
    for b in range(2):
        for i in range(5):
            scores = [math.exp(float(adapter.query[i] @ e_g[b, j]) / math.sqrt(8)) for j in range(5)]
            attended = sum(s / sum(scores) * e_g[b, j] for j, s in enumerate(scores)) + e_g[b, i]
            hidden = torch.nn.functional.gelu(adapter.mlp[0](attended))
            torch.testing.assert_close(got[b, i], attended + adapter.mlp[2](hidden), rtol=1e-4, atol=1e-5)


def test_parts_can_be_removed():
    e_g = torch.randn(1, 5, 8)
    bare = SemanticAdapter(replace(CONFIG, query=False, mlp=False))
    assert torch.equal(bare(e_g), e_g) and not list(bare.parameters())
    assert SemanticAdapter(replace(CONFIG, mlp=False)).mlp is None
    assert SemanticAdapter(replace(CONFIG, query=False)).query is None
    projected = SemanticAdapter(replace(CONFIG, projections=True))
    projected(e_g).sum().backward()
    assert projected.to_k.weight.grad is not None


def test_untrained_mlp_adds_nothing():
    adapter = SemanticAdapter(CONFIG)
    without = SemanticAdapter(replace(CONFIG, mlp=False))
    without.query.data.copy_(adapter.query.data)
    e_g = torch.randn(2, 5, 8)
    assert torch.equal(adapter(e_g), without(e_g))


def test_representation_loss_against_a_loop_and_without_gradient_to_its_target():
    e_g, e_c = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    pictures = [
        [float((e_g[b, i, k] - e_c[b, i, k]) ** 2) for i in range(3) if mask[b, i] for k in range(4)] for b in range(2)
    ]
    loss = representation_loss(e_g, e_c, mask)
    mean = sum(sum(errors) / len(errors) for errors in pictures) / 2
    torch.testing.assert_close(loss.item(), mean, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert e_c.grad is None and e_g.grad.abs().sum() > 0
    plain = representation_loss(e_g, e_c)
    torch.testing.assert_close(plain, torch.nn.functional.mse_loss(e_g, e_c))


@torch.no_grad()
def test_semantic_encoder_gives_embeddings_and_mask():
    tokenizer = Tokenizer.from_captions(["a red dog on grass"], 8, 32)
    encoder = SemanticEncoder(TextConfig(length=8, width=16, layers=1, heads=2), tokenizer).eval()
    e, mask = encoder(["a red dog", ""])
    assert e.shape == (2, 8, 16)
    assert mask.sum(1).tolist() == [5, 2]  # start, three words, end; start, end
    torch.testing.assert_close(e[:1], encoder(["a red dog"])[0])


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_the_text_model_is_transformers_to_the_bit(activation):
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_captions(["a red dog on grass"], 8, 32)
    encoder = SemanticEncoder(
        TextConfig(length=8, width=16, layers=2, heads=2, activation=activation), tokenizer
    ).eval()
    theirs = transformers_text(encoder).eval()
    ids = encoder.tokenize(["a red dog", ""])
    assert torch.equal(encoder.embed(ids), theirs(ids).last_hidden_state)


def test_text_models_that_cannot_be_built_are_refused():
    with pytest.raises(ValueError, match="unknown activation 'relu': expected quick_gelu or gelu"):
        SemanticEncoder(TextConfig(width=8, layers=1, heads=2, activation="relu"))
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        SemanticEncoder(TextConfig(width=8, layers=1, heads=3))
