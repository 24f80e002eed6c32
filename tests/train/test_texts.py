"""Captions encoded once, in place of the frozen text encoder."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from training import make_batch, small_config

from seada_core.train.sources import DataError
from seada_core.train.stages.registry import STAGES
from seada_core.train.texts import CachedSemanticEncoder, cache_texts, text_is_frozen, use_cached_texts

CAPTIONS = ["a photo of a dog", "a photo of the sea"]


def test_cached_texts_stand_in_for_the_frozen_encoder(tiny_parts, tmp_path):
    modules, preset = tiny_parts
    stage = STAGES["stage2"].build(modules, preset, small_config()).train()
    encoder = stage.semantic_encoder
    batch = make_batch(64, captions=CAPTIONS, color_captions=CAPTIONS)
    cache = SimpleNamespace(records=[{"captions": CAPTIONS, "color_captions": ["a red dog"]}, {}])
    folder = cache_texts(encoder, (cache, None), tmp_path)
    assert cache_texts(encoder, (cache,), tmp_path) == folder
    assert text_is_frozen(stage) and not text_is_frozen(STAGES["stage3"].build(dict(modules), preset, small_config()))
    stage = STAGES["stage2"].build(modules, preset, small_config()).train()
    expected = stage(batch)["loss"]
    use_cached_texts(stage, folder)
    assert isinstance(stage.semantic_encoder, CachedSemanticEncoder)
    assert not any(name.startswith("semantic_encoder") for name, _ in stage.named_parameters())
    torch.testing.assert_close(stage(batch)["loss"], expected, rtol=1e-3, atol=1e-4)
    for texts in (["a red dog", ""], ["a colorful photo", CAPTIONS[1]]):
        e, mask = stage.semantic_encoder(texts)
        wanted, wanted_mask = encoder(texts)
        torch.testing.assert_close(e, wanted, rtol=1e-3, atol=2e-3)
        assert torch.equal(mask, wanted_mask)
    with pytest.raises(DataError, match="'a cat' is not among the cached texts"):
        stage.semantic_encoder(["a cat"])
    with torch.no_grad():
        encoder.model.final_layer_norm.bias.add_(1)
    assert cache_texts(encoder, (cache,), tmp_path) != folder  # another encoder, other embeddings


def test_cached_texts_need_room(tiny_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DataError, match="GB left: give --cache-text False"):
        cache_texts(tiny_parts[0]["semantic_encoder"], (), tmp_path)
