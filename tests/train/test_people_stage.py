"""Stage people: labels of photos reach it as the photos are cropped, and it learns from them."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tars import png, write_tar
from tiny_models import make_tiny_preset
from training import encode, learn, make_batch, small_config

from seada_core.train.batches import Batches
from seada_core.train.data import build_cache
from seada_core.train.sources import DataError
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files


def build(recognition=True):
    torch.manual_seed(0)
    preset = make_tiny_preset()
    preset = replace(preset, control=replace(preset.control, recognition=recognition, recognition_width=32))
    parts = {part: part_files.build(part, preset) for part in ("controlnet_rca", "people")}
    return STAGES["people"].build(parts, preset, small_config()), parts


def shard(folder, count=6, labels=True):
    """Photos of 48 by 32 px whose pixels are their labels, as grey levels."""
    rng, members = np.random.default_rng(0), {}
    for k in range(count):
        values = rng.integers(0, 16, (8, 12), np.uint8).repeat(4, 0).repeat(4, 1)
        record = {"captions": ["a photo"]}
        if labels is True or (labels and k):
            record["labels"] = base64.b64encode(png(Image.fromarray(values))).decode()
        members |= {
            f"{k}.png": png(Image.fromarray(values * 16).convert("RGB")),
            f"{k}.json": json.dumps(record).encode(),
        }
    folder.mkdir(exist_ok=True)
    write_tar(folder / "data-000.tar", members)
    return str(folder)


def test_labels_are_cropped_and_mirrored_with_their_photos(tmp_path):
    cache = build_cache(shard(tmp_path / "a"), tmp_path / "cache", 32, encode, mirror=True)
    seen = Batches(cache, 6, 16, seed=3)
    for step in range(4):
        batch = seen[step]
        assert batch.labels.shape == (6, 16, 16) and batch.labels.dtype == torch.uint8
        assert (batch.rgb[:, 0] * 255 - batch.labels.float() * 16).abs().mean() < 6  # the cache is JPEG
        assert torch.equal(batch.rows(1, 3).labels, batch.labels[1:3])
    assert torch.equal(batch.to("cpu").labels, batch.labels)
    partly = build_cache(shard(tmp_path / "b", labels="some"), tmp_path / "cache2", 32, encode)
    labels = Batches(partly, 6, 32, seed=0)[0].labels
    assert [bool((row == 255).all()) for row in labels].count(True) == 1  # of the one that has none


def test_labels_that_are_no_picture_are_named(tmp_path):
    source = tmp_path / "a"
    source.mkdir()
    record = json.dumps({"labels": "bm8gcGljdHVyZQ=="}).encode()
    write_tar(source / "data-000.tar", {"k.png": png(Image.new("RGB", (32, 32))), "k.json": record})
    cache = build_cache(str(source), tmp_path / "cache", 32, encode)
    with pytest.raises(DataError, match="k: its labels are no PNG in base64"):
        Batches(cache, 1, 32, seed=0)[0]


def test_it_learns_and_changes_its_own_part_alone():
    stage, parts = build()
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    labels[:, :, 32:] = 8  # a dress
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * (labels > 0)[:, None]
    batch = make_batch(rgb, labels=labels)
    losses, terms, changed = learn(stage, parts, batch, 20)
    assert losses[-1] < 0.5 * losses[0] and terms["predicted"] > 0.9
    assert changed == {"people"} == set(stage.parts())


def test_what_it_needs_is_said():
    with pytest.raises(DataError, match="needs a controller whose mapper has a classifier"):
        build(recognition=False)
    stage, _ = build()
    with pytest.raises(DataError, match='photos whose people are marked: "labels" in each'):
        stage(make_batch(64))
