"""Colour captions say in words which colours a photo has."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from tars import png, write_tar
from training import encode

from seada_core.color.spaces import lab_to_rgb, rgb_to_lab
from seada_core.train.color_captions import ColorDescriber, color_word
from seada_core.train.data import build_cache
from seada_core.train.sources import DataError


def rgb_of(color: str) -> torch.Tensor:
    return torch.tensor([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])[:, None, None]


@pytest.fixture(scope="module")
def describer() -> ColorDescriber:
    return ColorDescriber.with_package_weights()


@pytest.mark.parametrize(
    ("color", "word"),
    [  # CSS colours whose names are beyond dispute
        ("#ff0000", "bright red"), ("#1c2a50", "navy"), ("#008000", "bright green"), ("#ffff00", "bright yellow"),
        ("#b22222", "bright red"), ("#c49a6c", "tan"), ("#f5f5dc", "beige"), ("#ffc0cb", "pink"), ("#808000", "olive"),
        ("#40e0d0", "turquoise"), ("#800080", "bright purple"), ("#ff8c00", "bright orange"), ("#8b4513", "brown"),
        ("#000000", "black"), ("#ffffff", "white"), ("#808080", "gray"), ("#87ceeb", "blue"),
    ],
)  # fmt: skip
def test_colors_have_their_everyday_names(color, word):
    assert color_word(rgb_to_lab(rgb_of(color))[:, 0, 0]) == word


def test_a_dull_color_is_pale_and_keeps_its_hue():
    lab = torch.tensor([60.0, -3.0, -12.0])
    assert color_word(lab) == "pale blue"
    assert color_word(torch.tensor([60.0, -8.0, -35.0])) == "blue"


def landscape() -> torch.Tensor:
    """A blue sky over a rough green meadow with a red square in its middle."""
    picture = rgb_of("#7aaee0").expand(3, 96, 96).clone()
    noise = 12 * torch.randn(1, 48, 96, generator=torch.Generator().manual_seed(0))
    picture[:, 48:] = lab_to_rgb(rgb_to_lab(rgb_of("#4d8a3a")) + torch.cat([noise, 0 * noise, 0 * noise]))
    picture[:, 36:64, 34:62] = rgb_of("#b8302c")
    return picture.clamp(0, 1)


def test_sky_meadow_and_the_labelled_thing_get_their_colors(describer):
    phrases = describer(landscape()[None], ["car, parked"])[0]
    assert phrases[0].endswith("red car")
    assert any(phrase.endswith("blue sky") for phrase in phrases)
    assert any(phrase.endswith("green grass") for phrase in phrases)


def test_areas_without_a_name_are_placed(describer):
    picture = rgb_of("#dcb92c").expand(3, 96, 96).clone()
    picture[:, :, 48:] = rgb_of("#7b3594")
    assert set(describer(picture[None], [None])[0]) == {"bright yellow left", "bright purple right"}


def test_labels_that_name_no_thing_are_not_repeated(describer):
    assert not any("landscape" in phrase for phrase in describer(landscape()[None], ["landscape"])[0])


def test_photos_are_described_alike_alone_and_in_a_batch(describer):
    pictures = torch.stack([landscape(), landscape().flip(1), rgb_of("#808080").expand(3, 96, 96)])
    labels = ["car", None, None]
    alone = [describer(picture[None], [label])[0] for picture, label in zip(pictures, labels)]
    assert describer(pictures, labels) == alone


def test_caches_describe_the_photos_without_color_captions(tmp_path):
    given = {"captions": ["a car"], "color_captions": ["a green car"]}
    pixels = (landscape().permute(1, 2, 0) * 255).round().byte().numpy()
    pictures = {"a": ({"captions": ["a parked car"], "label": "car"}, pixels), "b": (given, pixels), "c": ({}, pixels)}
    members = {}
    for key, (record, picture) in pictures.items():
        members |= {f"{key}.png": png(Image.fromarray(picture)), f"{key}.json": json.dumps(record).encode()}
    write_tar(tmp_path / "data-000.tar", members)
    cache = build_cache(str(tmp_path), tmp_path / "cache", 96, encode, describe_colors=True)
    described, kept, bare = (record["color_captions"] for record in cache.records)
    assert described[0].startswith("a parked car, ") and "red car" in described[0] and "blue sky" in described[0]
    assert kept == ["a green car"]
    assert "green grass" in bare[0] and not bare[0].startswith(",")
    with pytest.raises(DataError, match="choose another"):  # a cache without them is another cache
        build_cache(str(tmp_path), tmp_path / "cache", 96, encode)
