"""Colours in words."""

import re
import time

import numpy as np
import pytest

from seada_core.files.hint_format import parse_color
from seada_core.hints.color_phrases import COLORS, color_phrases, contradictions
from seada_core.models.captioners.caption_text import strip_monochrome

PHRASES = {
    # before the thing
    "a yellow fire hydrant on a green lawn": {"fire hydrant": "yellow", "lawn": "green"},
    "a dark green vintage car parked here": {"vintage car": "green"},
    "RED CAR": {"car": "red"},
    "a red car driving fast": {"car": "red"},
    "a red brick building": {"brick building": "red"},
    "orange juice beside a golden retriever": {"juice": "orange", "retriever": "golden"},
    "a man wearing a brown hat standing by a dark red barn.": {"hat": "brown", "barn": "red"},
    "a tan, very old sofa; pink curtains": {"curtains": "pink"},
    # after it
    "the car is red": {"car": "red"},
    "the walls are painted a deep blue": {"walls": "blue"},
    "lips painted red": {"lips": "red"},
    "a dog that is brown": {"dog": "brown"},
    "his eyes are blue and his hair is blond": {"eyes": "blue", "hair": "blond"},
    "the sky is blue, red car below": {"sky": "blue", "car": "red"},
    # several colours: the first
    "a red and white awning": {"awning": "red"},
    "a red, white and blue flag": {"flag": "red"},
    "a navy blue suit": {"suit": "navy"},
    "the door is green or blue": {"door": "green"},
    "a black and white cat": {"cat": "black"},
    "a red car and a blue car": {"car": "red"},
    # hyphens, prompts' own signs
    "a blue-green vase": {"vase": "blue"},
    "a red-brick house": {"brick house": "red"},
    "a blue-eyed girl with light-brown hair": {"eyes": "blue", "hair": "brown"},
    "an orange-coloured coat": {"coat": "orange"},
    "(red car:1.2), (blue sky), [green grass]": {"car": "red", "sky": "blue", "grass": "green"},
    "red_hair, green_eyes": {"hair": "red", "eyes": "green"},
    # none
    "": {},
    "   \n ": {},
    "a cup of coffee on a wooden table": {},
    "an orange on a table": {},
    "the colour green": {},
    "it is red": {},
    "a man in red": {},
    "a redhead in a greenhouse with blueberries": {},
    "a black and white photo of a dog": {},
    "a red 3": {},
    "une voiture rouge": {},
    "红色的汽车": {},
}


@pytest.mark.parametrize("prompt", PHRASES)
def test_things_and_their_colours(prompt):
    found = color_phrases(prompt)
    assert {phrase.thing: phrase.word for phrase in found} == PHRASES[prompt]
    assert all(re.fullmatch("#[0-9a-f]{6}", phrase.color) for phrase in found)


def chroma(color):
    """(Cb, Cr) of "#rrggbb" by ITU-R BT.601's formula, and luma."""
    red, green, blue = parse_color(color)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.array([(blue - luma) / 1.772, (red - luma) / 1.402]), luma


@pytest.mark.parametrize(
    ("prompt", "strength"),
    [
        ("a red car", 0.75),
        ("a dark red car", 0.75),
        ("a bright red car", 1),
        ("the car is a deep red", 1),
        ("a pale red car", 0.4),
        ("a light-red car", 0.4),
        ("a soft vivid red car", 1),
        ("a red and white awning", 0.75),
        ("a pale blue and white awning", 0.4),
    ],
)
def test_words_for_shades_say_how_strong_a_colour_is(prompt, strength):
    (phrase,) = color_phrases(prompt)
    found, luma = chroma(phrase.color)
    strongest, same_luma = chroma(COLORS[phrase.word])
    assert np.allclose(found, strength * strongest, atol=0.003)
    assert abs(luma - same_luma) < 0.003


def test_every_colour_word_is_found_and_has_a_valid_colour():
    for word, color in COLORS.items():
        parse_color(color)
        assert [(p.thing, p.word) for p in color_phrases(f"a {word} thing")] == [("thing", word)]


def test_texts_are_read_up_to_a_limit():
    names = [f"{a}{b}" for a in "bcdfg" for b in ("at", "it", "ot", "ut", "et")]
    assert len(color_phrases(", ".join(f"a red {name}" for name in names))) == 20
    assert color_phrases("x" * 5000 + " red car") == []


HOSTILE = (
    *("red ", "light ", " ", "a", "is ", "red,", "red and ", "light-", "red-", "red, ", "black and white ", "in a "),
    *(
        "the photo is ",
        "(",
        "red x ",
        "\n",
        "\0",
        "painted ",
        ", ",
        "very old vintage ",
        "monochrome ",
        "shown in ",
        "is ",
    ),
)


@pytest.mark.parametrize("part", HOSTILE)
def test_a_megabyte_of_any_text_is_read_quickly(part):
    for text in (
        part * (1_000_000 // len(part)),
        part * (1_000_000 // len(part)) + "red",
        "the car is red" + part * 9000,
    ):
        start = time.thread_time()
        color_phrases(text)
        assert time.thread_time() - start < 0.5


def test_repetitive_captions_are_read_quickly():
    start = time.thread_time()
    strip_monochrome("black and white " * 100)
    strip_monochrome("black-and-white, " * 100)
    assert time.thread_time() - start < 0.5


CONTRADICTIONS = {
    "a red blue car": [("car", "red", "blue")],
    "a red car. The car is blue": [("car", "red", "blue")],
    "black white cat": [("cat", "black", "white")],
    "a yellow blue house beside a green tree": [("house", "yellow", "blue")],
}
NONE = (
    *("a blue-green sea", "a navy blue suit", "red and white awning", "red, white and blue flag", "a golden brown dog"),
    *("a dark green car beside a red bus", "a black and white photo of a red car", "olive green jacket"),
    *("a red purple sky", "an orange yellow sunset"),
)


@pytest.mark.parametrize("prompt", CONTRADICTIONS)
def test_two_colours_of_one_thing_are_found(prompt):
    assert contradictions(prompt) == CONTRADICTIONS[prompt]


@pytest.mark.parametrize("prompt", NONE)
def test_blends_and_patterns_are_no_contradictions(prompt):
    assert contradictions(prompt) == []
