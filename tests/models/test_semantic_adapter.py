"""Eq. 2, 3 and 5 against loops, and the ablation switches."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import torch

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


@torch.no_grad()
def test_names_are_the_same_where_transformers_wraps_the_model(monkeypatch):
    """Releases before 5 wrap the text model in another module; both must read the same part files."""
    from transformers import CLIPTextConfig
    from transformers.models.clip import modeling_clip

    plain = modeling_clip.CLIPTextModel

    class Wrapped(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            inner = plain(config)
            self.text_model = getattr(inner, "text_model", inner)

    config = TextConfig(width=8, layers=1, heads=2)
    ours = SemanticEncoder(config)
    monkeypatch.setitem(
        sys.modules, "transformers", SimpleNamespace(CLIPTextConfig=CLIPTextConfig, CLIPTextModel=Wrapped)
    )
    wrapped = SemanticEncoder(config)
    assert type(wrapped.model) is type(ours.model)
    wrapped.load_state_dict(ours.state_dict())
    assert torch.equal(wrapped(["a dog"])[0], ours(["a dog"])[0])
