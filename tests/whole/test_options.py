"""The options of a colouring: limits, the model's own values, and the ways to pass them to a Colorizer."""

import math
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from seada_core.files.hint_format import Hint
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.presets import MINI, SD15


@pytest.mark.parametrize(
    "field, good, bad, range",
    [
        ("steps", (1, 1000), (0, -1, 2.5, "3"), "at least 1"),
        ("guidance", (0, 1.5, 100), (-0.1, 100.5, math.nan), "0 to 100"),
        ("strength", (0, 10), (-1, 11, None), "0 to 10"),
        ("size", (8, 512), (0, 4, 100, 64.0), "a multiple of 8 from 8 to 8192"),
        ("saturation", (0, 10), (-1, math.inf), "0 to 10"),
        ("palette_strength", (0, None, 10), (-1, 10.5), "0 to 10"),
        ("token_steps", (0, 100), (-1,), "at least 0"),
        ("temperature", (1e-6, 5), (0, -1, math.inf, math.nan), "a number above 0"),
        ("noise", (0, 1), (-0.1, 1.5), "0 to 1"),
        ("seed", (0, 2**64 - 1), (2**64, 0.5), "-9223372036854775808 to 18446744073709551615"),
    ],
)
def test_limits_are_checked_and_named(field, good, bad, range):
    for value in good:
        assert getattr(ColorizeOptions(**{field: value}), field) == value
    assert str(ColorizeOptions.limits(field)) == range
    for value in bad:
        with pytest.raises(ValueError) as error:
            ColorizeOptions(**{field: value})
        assert str(error.value) in (
            f"{field} must be {range}, not {value!r}",
            f"{field} must be a whole number, not {value!r}",
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hint_methods": ["magic"]}, "unknown hint method 'magic'; choose among modulation, guidance, propagation"),
        ({"scheduler": "euler"}, "unknown scheduler 'euler'; choose among ddim"),
        ({"palette": ["#aabbcc", "reddish"]}, "bad colour 'reddish'"),
    ],
)
def test_names_and_colours_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ColorizeOptions(**options)


def test_sequences_become_tuples_and_numpy_s_numbers_are_numbers():
    options = ColorizeOptions(prompt=["a", "b"], hints=[Hint(1, 2, "#aabbcc")], palette=["#aabbcc"], steps=np.int64(3))
    assert (options.prompt, options.hints, options.palette) == (("a", "b"), (Hint(1, 2, "#aabbcc"),), ("#aabbcc",))
    assert ColorizeOptions(prompt="text").prompt == "text"
    drawn = torch.zeros(1, 3, 4, 4)
    assert ColorizeOptions(hints=drawn).hints is drawn


def test_options_do_not_change_and_can_be_pickled():
    options = ColorizeOptions(prompt="a dog", hints=[Hint(1, 2, "#aabbcc")])
    with pytest.raises(AttributeError):
        options.steps = 3
    assert pickle.loads(pickle.dumps(options)) == options


def test_none_is_the_models_own_value():
    resolved = ColorizeOptions(guidance=2.0).resolved(MINI)
    own = MINI.sampling
    values = (resolved.steps, resolved.guidance, resolved.size, resolved.saturation)
    assert values == (own.steps, 2.0, own.size, own.saturation)
    assert resolved.resolved(SD15) == resolved
    assert not any(getattr(resolved, name) is None for name in ("steps", "guidance", "size", "saturation"))
    few = replace(MINI, diffusion=replace(MINI.diffusion, train_steps=10))
    with pytest.raises(ValueError, match="steps must be 1 to 10, not 11"):
        ColorizeOptions(steps=11).resolved(few)


def test_a_colorizer_takes_options_fields_or_both(tiny_model):
    colorizer, photo = Colorizer.from_pretrained(str(tiny_model), "cpu"), torch.rand(3, 40, 48)
    by_fields = colorizer(photo, prompt="a dog", steps=2, seed=3)
    assert torch.equal(colorizer(photo, ColorizeOptions(prompt="a dog", steps=2, seed=3)), by_fields)
    assert torch.equal(colorizer(photo, ColorizeOptions(prompt="a dog", steps=2), seed=3), by_fields)
    for call in (colorizer, colorizer.chroma):
        with pytest.raises(TypeError, match="unexpected keyword argument 'stepps'"):
            call(photo[:1][None], stepps=2)


def test_every_number_has_limits():
    for field in fields(ColorizeOptions):
        is_number = field.type.removesuffix(" | None") in ("int", "float")
        assert is_number == ("limits" in field.metadata), field.name
