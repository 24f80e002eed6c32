"""The classifier's maps that a stage trains on are those of the classifier that the model has."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from tiny_models import make_tiny_parts

from seada_core.color.spaces import luminance
from seada_core.models.controlnet_rca import recognize
from seada_core.train.batches import Batches
from seada_core.train.data import Cache, build_cache
from seada_core.train.prepare import with_recognized
from seada_core.train.resident import read_photos
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files


def encode(rgb):
    return rgb.new_zeros(len(rgb), 4, rgb.shape[2] // 8, rgb.shape[3] // 8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((64, 64)).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def parts():
    """Parts whose controller has a classifier as a training may leave it."""
    parts, preset = make_tiny_parts(["a photo"])
    preset = replace(preset, control=replace(preset.control, recognition=True, recognition_width=32))
    parts["controlnet_rca"] = part_files.build("controlnet_rca", preset)
    trained(parts)
    return parts, preset


def trained(parts):
    classifier = parts["controlnet_rca"].mapper.classifier
    classifier.load_package_weights()
    with torch.no_grad():
        for tensor in classifier.state_dict().values():
            tensor.mul_(1 + 0.2 * torch.randn(tensor.shape))


def maps_of(pictures, parts, preset):
    config = replace(preset.training["stage3"], resolution=64, crop=64)
    known = with_recognized(pictures, STAGES["stage3"], parts, config, PartialState())
    batch = Batches(known, 3, 64, seed=0)[0]
    gray = luminance(batch.rgb).expand(-1, 3, -1, -1)
    return batch.recognized, recognize(parts["controlnet_rca"].mapper.classifier, gray)


def difference(found, expected):
    """Root mean square of the difference, as a share of what is expected: bfloat16 leaves a few per cent."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) for a, b in pairs)


def test_a_cache_holds_the_maps_of_each_classifier(photos, parts, tmp_path):
    parts, preset = parts
    build_cache(str(photos), tmp_path / "cache", 64, encode)
    first = maps_of(Cache(tmp_path / "cache"), parts, preset)
    assert difference(*first) < 0.05
    trained(parts)
    second = maps_of(Cache(tmp_path / "cache"), parts, preset)
    assert difference(*second) < 0.05
    assert difference(first[0], second[1]) > 0.2
    assert not Cache(tmp_path / "cache").recognized


def test_photos_on_the_device_have_them_too(photos, parts):
    assert difference(*maps_of(read_photos(str(photos), 64, encode, "cpu", augment=False), *parts)) < 0.05
