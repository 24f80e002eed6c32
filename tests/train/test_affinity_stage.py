"""Stage affinity: it trains its part alone, learns on a few photos, and says what it needs."""

import sys
from dataclasses import replace

import pytest
import torch
from tiny_models import make_tiny_preset
from training import CAPTIONS, learn, make_batch, small_config

from seada_core.models.tokenizer import Tokenizer
from seada_core.train.draws import Draws
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
    colors = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = make_batch(torch.nn.functional.interpolate(colors, scale_factor=16))
    losses, _, changed = learn(stage, parts, batch, 25, rate=1e-3)  # at 3e-3 all cells are soon too far apart
    assert losses[-1] < 0.8 * losses[0]
    assert changed == {"affinity"} == set(stage.parts())
    assert stage(batch)["predicted"] == pytest.approx(stage(batch)["predicted"].item())  # drawn by the batch's seeds


def marked(side=64):
    """Four grey pictures of which the first two have things: a square of 1s, and 1s and 2s; the last is unknown."""
    labels = torch.zeros(4, side, side, dtype=torch.uint8)
    labels[:2, 8:40, 8:40] = 1
    labels[1, 40:, 40:] = 2
    labels[2, :4, :4] = 1  # too small
    labels[3] = 255
    return replace(make_batch(torch.full((4, 3, side, side), 0.5)), labels=labels)


def test_a_marked_thing_moves_as_a_whole_and_has_the_first_hint():
    stage, _ = build()
    batch = marked()
    cells = batch.labels[:, 2::4, 2::4]
    seen = set()
    for trial in range(20):
        draws = Draws([97 * trial + k for k in range(4)])
        things = stage.things(batch.labels, torch.zeros(4, 2, 16, 16), draws)
        assert things.flatten(1).any(1).tolist() == [True, True, False, False]
        assert torch.equal(things[0], cells[0] == 1)
        seen.add(int(cells[1][things[1]].unique()))
        places, valid = stage.places(things, draws)
        for k in (0, 1):
            assert things[k][tuple(places[k, 0])]
        added = stage.recoloring(batch.rgb, things, draws)
        for k in (0, 1):
            inside = added[k][:, things[k]]
            assert (inside == inside[:, :1]).all() and 0.069 < inside[:, 0].norm() < 0.271
        assert valid.sum(1).min() >= 1
    assert seen == {1, 2}


def test_the_rest_of_a_photo_with_a_marked_thing_has_its_true_colours_from_the_start(monkeypatch):
    stage, _ = build()
    monkeypatch.setattr(stage, "recoloring", lambda rgb, things, draws: torch.zeros(len(rgb), 2, 16, 16))
    batch = marked()
    assert stage(batch.rows(0, 2))["loss"].item() == pytest.approx(1e-5**0.5, rel=0.1)  # nothing to change
    assert stage(batch.rows(2, 4))["loss"] > 0.01


def test_what_it_needs_is_said(monkeypatch):
    with pytest.raises(DataError, match="needs a controller whose mapper has a classifier"):
        build(recognition=False)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        build()
