"""Stage affinity: it trains its part alone, learns on a few photos, and says what it needs."""

import sys
from dataclasses import replace

import pytest
import torch
from tiny_models import make_tiny_preset
from training import CAPTIONS, make_batch, small_config

from seada_core.models.tokenizer import Tokenizer
from seada_core.train.sources import DataError
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files

NEEDED = ("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "vq_decoder", "affinity")


def build(recognition=True):
    torch.manual_seed(0)
    preset = make_tiny_preset()
    preset = replace(preset, control=replace(preset.control, recognition=recognition, recognition_width=32))
    tokenizer = Tokenizer.from_captions(CAPTIONS, 16, 64)
    parts = {p: part_files.build(p, preset, tokenizer if p == "semantic_encoder" else None) for p in NEEDED}
    return STAGES["affinity"].build(parts, preset, small_config()), parts


@pytest.mark.slow
def test_it_learns_and_changes_its_own_part_alone():
    stage, parts = build()
    before = {p: {n: t.clone() for n, t in module.state_dict().items()} for p, module in parts.items()}
    colors = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = make_batch(torch.nn.functional.interpolate(colors, scale_factor=16))
    optimizer = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(25):
        terms = stage.train()(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    changed = {p for p, m in parts.items() if any(not torch.equal(t, before[p][n]) for n, t in m.state_dict().items())}
    assert changed == {"affinity"} == set(stage.parts())
    assert stage(batch)["predicted"] == pytest.approx(stage(batch)["predicted"].item())  # drawn by the batch's seeds


def test_what_it_needs_is_said(monkeypatch):
    with pytest.raises(DataError, match="needs a controller whose mapper has a classifier"):
        build(recognition=False)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        build()
