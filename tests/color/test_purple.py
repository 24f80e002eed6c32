"""Purples that a model comes up with are weakened; other colours, and purples that were asked for, are not."""

import colorsys

import pytest
import torch
from PIL import Image

from seada_core.color.purple import purple, weaken_purple
from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.hints.color_phrases import names_purple
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer


def chroma_of(*colors):
    """(1, 2, 1, N) of sRGB colours in [0, 1]."""
    return rgb_to_ycbcr(torch.tensor(colors).T[None, :, None])[:, 1:]


@pytest.mark.parametrize("lightness", [0.2, 0.5, 0.8])
def test_hues_between_blue_and_red_are_purple_and_no_others(lightness):
    hues = torch.arange(0, 360, 5)
    colors = chroma_of(*(colorsys.hls_to_rgb(hue / 360, lightness, 0.6) for hue in hues.tolist()))
    share = purple(colors)[0, 0, 0]
    assert (share[(hues >= 265) & (hues <= 305)] == 1).all()  # violet to magenta
    assert (share[(hues <= 345) & (hues >= 335)] < 0.5).all()
    assert not share[(hues <= 230) | (hues == 355)].any()  # red, yellow, green, blue
    torch.testing.assert_close(purple(0.01 * colors), purple(colors))


def test_purples_keep_a_share_of_their_chroma_and_their_hue():
    colors = chroma_of((0.5, 0.2, 0.6), (0.6, 0.3, 0.2), (0.2, 0.3, 0.7))
    found = weaken_purple(colors, [0.25])
    torch.testing.assert_close(found[..., 0], 0.25 * colors[..., 0])
    assert torch.equal(found[..., 1:], colors[..., 1:])
    assert weaken_purple(colors, [1.0]) is colors
    assert not weaken_purple(torch.zeros(1, 2, 3, 3), [0.5]).any()


@pytest.mark.parametrize(
    ("prompt", "yes"),
    [("a violet-coloured vase", True), ("Lilacs. A Lavender field", True), ("an indigo_sea", True),
     ("a purplish sky", False), ("a red car on a blue street", False), ("a grey, white and silver cat", False),
     ("", False)],
)  # fmt: skip
def test_prompts_that_name_purples(prompt, yes):
    assert names_purple(prompt) == yes


@pytest.fixture
def violet(monkeypatch, tiny_model):
    """A model that makes everything violet."""
    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    decoded = torch.tensor([0.1, 0.1]).view(1, 2, 1, 1)
    monkeypatch.setattr(colorizer, "decode", lambda z, *_: decoded.expand(len(z), -1, 64, 64))
    return colorizer


def test_the_colorizer_weakens_purples_that_nobody_asked_for(violet):
    gray = torch.full((1, 1, 64, 64), 0.5)

    def strength(**options):
        return violet.chroma(gray, **options).mean().item() / (0.1 * violet.preset.sampling.saturation)

    assert strength(prompt="a dog", purple=0.5) == pytest.approx(0.5)
    assert strength(prompt="a dog") == pytest.approx(violet.preset.sampling.purple)
    assert strength(prompt="a purple dog", purple=0.5) == pytest.approx(1)
    both = violet.chroma(gray.expand(2, -1, -1, -1), prompt=["a dog", "a lilac dog"], purple=0.5).mean((1, 2, 3))
    assert (both / (0.1 * violet.preset.sampling.saturation)).tolist() == pytest.approx([0.5, 1])  # each its own
    assert strength(prompt="a dog", purple=0.5, palette=["#7030a0"]) == pytest.approx(1)


def test_hints_in_the_diffusion_keep_their_purple(violet):
    hints = torch.zeros(1, 3, 64, 64)
    hints[..., 10:20, 10:20] = 0.3
    options = ColorizeOptions(prompt="a dog", steps=1, purple=0.0, hints=hints, hint_methods=["guidance"])
    found = rgb_to_ycbcr(violet(torch.full((1, 1, 64, 64), 0.5), options))[:, 1:]
    assert found[..., 40:, 40:].mean() > 0.05


def test_only_the_embedded_model_weakens_purples_by_itself(tiny_model):
    assert Colorizer.from_pretrained("mini").preset.sampling.purple == 0.5
    assert Colorizer.from_pretrained(str(tiny_model), "cpu").preset.sampling.purple == 1
    photo = Image.new("L", (64, 64), 128)
    with pytest.raises(ValueError, match="purple"):
        Colorizer.from_pretrained(str(tiny_model), "cpu")(photo, purple=1.5)
