"""Skin in one tone: what is brought near to it, and what stays."""

import pytest
import torch
from PIL import Image

from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.hints import skin as skin_tone
from seada_core.hints.people import PeopleFinder
from seada_core.hints.skin import AROUND, LIPS, OWN, even_skin, find_skin, typical
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer


class Seen(PeopleFinder):
    """A finder that is sure of skin in the left half of the photo, and sees what may be some at the top right."""

    __slots__ = ()

    def skin(self, gray, size):
        seen = torch.full((len(gray), 1, 8, 8), 1e-4)
        seen[..., :4] = 0.9
        seen[..., :4, 4:] = 0.2
        return seen.logit()


def both(skin):
    """What surely is skin also may be."""
    return skin.expand(-1, 2, -1, -1)


def test_skin_is_as_photos_of_people_have_it():
    gray = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 5)
    cb, cr = typical(gray)[0, :, 0]
    assert cb.tolist() == pytest.approx([y * (1 - y) * (-0.136 - 0.306 * y) for y in (0, 0.25, 0.5, 0.75, 1)], abs=1e-6)
    assert (cr[1:4] > 0.05).all() and (cb[1:4] < -0.03).all()  # reddish, less blue
    assert typical(torch.tensor([[[[-0.1, 1.2]]]])).abs().max() == 0  # beyond black and white nothing can show


def test_a_gray_arm_and_a_red_hand_come_near_to_the_tone_and_lips_and_the_rest_stay():
    gray = torch.full((1, 1, 40, 40), 0.5)
    tone = typical(gray)[0, :, 0, 0] + torch.tensor([0.02, -0.01])  # of a face that differs from others
    chroma = tone.view(1, 2, 1, 1).repeat(1, 1, 40, 40)
    chroma[0, 1, 12:14, 8:13] += LIPS - 0.005
    chroma[..., 30:33, :12] = 0  # a grey arm
    chroma[0, 1, 30:33, 12:16] = 0.4  # a red hand
    chroma[0, 0, :, 25:] = 0.3  # a blue dress
    skin = torch.zeros(1, 1, 40, 40)
    skin[..., :22, :22], skin[..., 30:33, :16] = 1, 1
    found = even_skin(chroma, gray, both(skin))
    target = typical(gray)[0, :, 0, 0] + OWN * torch.tensor([0.02, -0.01])
    apart = found - target.view(1, 2, 1, 1)
    length, before = apart.norm(dim=1)[0], (chroma - tone.view(1, 2, 1, 1)).norm(dim=1)[0]
    torch.testing.assert_close(length[30:33, :16], AROUND**2 / before[30:33, :16])  # the farther, the nearer
    assert (apart[0, 0, 30:33, :12] > 0).all() and (apart[0, 1, 30:33, 12:16] > 0).all()  # greyer and redder still
    torch.testing.assert_close(apart[0, 1, 12:14, 8:13], torch.full((2, 5), LIPS - 0.005))  # lips: nothing was taken
    assert length[:5, :22].max() < 1e-6
    assert torch.equal(found[skin.expand_as(found) == 0], chroma[skin.expand_as(chroma) == 0])
    half = even_skin(chroma, gray, torch.cat([0.6 * skin, 0 * skin], 1))
    assert ((half - chroma)[0, 1, 31, 13] / (found - chroma)[0, 1, 31, 13]).item() == pytest.approx(0.6, abs=0.02)
    chroma[0, 1, 12:14, 8:13] += 0.2  # and paint on the face
    painted = (even_skin(chroma, gray, both(skin)) - target.view(1, 2, 1, 1))[0, 1, 12:14, 8:13]
    assert (painted < AROUND).all()  # it is too red for lips, and leaves a trace in the mean alone


def test_a_few_places_are_no_skin_and_each_photo_has_its_own_tone():
    gray, chroma = torch.rand(3, 1, 40, 40), torch.randn(3, 2, 40, 40) / 10
    skin = torch.zeros(3, 1, 40, 40)
    skin[0, :, :30], skin[1, :, 10:], skin[2, 0, 0, 0] = 1, 0.7, 1
    together = even_skin(chroma, gray, both(skin))
    alone = [even_skin(*(row[None] for row in rows)) for rows in zip(chroma, gray, both(skin))]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[2], chroma[2]) and not torch.equal(together[0], chroma[0])


def test_what_may_be_skin_keeps_colours_that_skin_can_have_and_grey():
    gray = torch.full((1, 1, 40, 40), 0.5)
    tone = typical(gray)
    chroma, skin = tone.clone(), torch.zeros(1, 2, 40, 40)
    skin[..., :15, :15] = 1  # a face
    skin[:, 1, 20:, :] = 1  # what may be an arm, in five colours
    colors = torch.tensor([[0.3, -0.1], [-0.1, 0.4], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    colors[2:4] = tone[0, :, 0, 0] + torch.tensor([[0.01, -0.02], [-0.02, 0.0]])
    chroma[0, :, 20:] = colors.repeat_interleave(8, 0).mT[:, None]
    found = even_skin(chroma, gray, skin)[0, :, 30]
    length = (found - tone[0, :, 0, :1]).norm(dim=0)
    assert length[:16].max() < AROUND + LIPS + 1e-5  # blue and red
    assert torch.equal(found[:, 16:32], chroma[0, :, 30, 16:32])  # as skin is
    assert found[:, 32:].norm(dim=0).max() < 1e-6  # grey: a wall, maybe
    doubtful = even_skin(chroma, gray, skin * torch.tensor([1, 0.2]).view(1, 2, 1, 1))[0, :, 30]
    assert (doubtful - tone[0, :, 0, :1]).norm(dim=0)[:16].max() < 5 * AROUND + 5 * LIPS + 1e-5


def test_what_a_red_hand_has_stained_is_calmed_and_other_hues_and_places_are_not():
    gray = torch.full((1, 1, 96, 96), 0.5)
    chroma = typical(gray).clone()
    skin = torch.zeros(1, 2, 96, 96)
    skin[..., :30, :30] = 1  # a face
    skin[..., 40:52, 40:52] = 1  # a hand
    chroma[..., 40:52, 40:52] = torch.tensor([-0.1, 0.4]).view(1, 2, 1, 1)
    sleeve, scarf, car = (..., slice(52, 58), slice(40, 52)), (..., slice(34, 40), slice(40, 52)), (..., slice(88, 96))
    for place, color in ((sleeve, [-0.05, 0.2]), (scarf, [0.3, 0.0]), (car, [-0.05, 0.2])):
        chroma[place] = torch.tensor(color).view(1, 2, 1, 1)
    found = even_skin(chroma, gray, skin)
    assert (found[sleeve].norm(dim=1) < 0.65 * chroma[sleeve].norm(dim=1)).all()
    assert torch.nn.functional.cosine_similarity(found[sleeve], chroma[sleeve]).min() > 0.999  # the hue stays
    assert torch.equal(found[scarf], chroma[scarf]) and torch.equal(found[car], chroma[car])
    chroma[..., 40:52, 40:52] = typical(gray)[..., :1, :1]  # a hand that is no redder than the face
    assert torch.equal(even_skin(chroma, gray, skin)[sleeve], chroma[sleeve])


def test_what_may_be_skin_is_where_its_colour_is_warm():
    gray = torch.full((1, 1, 16, 16), 0.5)
    cold = torch.zeros(1, 2, 16, 16)
    warm = cold.clone()
    warm[:, 1] = 0.2
    blue = warm.clone()
    blue[:, 0] = 0.4
    sure, doubtful = (slice(None), slice(None, 7)), (slice(None, 6), slice(10, None))
    for chroma, expected in ((cold, 0.0), (warm, 1.0), (blue, 0.0)):
        found, perhaps = find_skin(Seen(None, None), gray, chroma)[0]
        assert found.shape == (16, 16) and perhaps[sure].min() > 0.99 and found[sure].min() > 0.99
        assert found[doubtful].mean().item() == pytest.approx(expected, abs=0.2)
    below = find_skin(Seen(None, None), gray, warm)[0, :, 10:, 10:]
    assert below.max() < 0.01  # nothing was seen there, whatever its colour


@pytest.fixture
def seen(monkeypatch, tiny_model):
    monkeypatch.setattr("seada_core.pipeline.people_finder", lambda has, part: Seen(None, None))
    return Colorizer.from_pretrained(str(tiny_model), "cpu")


def test_the_colorizer_evens_skin_unless_asked_otherwise(seen):
    gray = torch.full((1, 1, 64, 64), 0.5)
    plain, full, half = (seen.chroma(gray, skin=share, prompt="a dog") for share in (0.0, 1.0, 0.5))
    side = full.shape[-1]
    rest, left = (..., slice(5 * side // 8, None), slice(5 * side // 8, None)), (..., slice(None, side // 4))
    assert torch.equal(full[rest], plain[rest])
    assert (full - plain)[left].abs().max() > 0.01
    torch.testing.assert_close((half - plain)[left], (full - plain)[left] / 2, rtol=0.01, atol=1e-4)
    twice = seen.chroma(gray, prompt="a dog", saturation=2 * (seen.preset.sampling.saturation or 1))
    torch.testing.assert_close(twice, 2 * full)
    assert not seen.chroma(gray, prompt="a dog", saturation=0).any()


@pytest.mark.parametrize("fields", [{"palette": ["#204080"]}, {"hint_methods": ["modulation", "guidance"]}])
def test_colours_that_the_diffusion_was_asked_for_are_not_evened(seen, monkeypatch, fields):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr("seada_core.pipeline.even_skin", never)
    photo = Image.new("L", (64, 64), 128)
    if "hint_methods" in fields:
        hints = torch.zeros(1, 3, 64, 64)
        hints[..., 10:20, 10:20] = 0.3
        fields = fields | {"hints": hints}
    seen(photo, ColorizeOptions(prompt="a dog", steps=1, **fields))
    with pytest.raises(AssertionError):
        seen(photo, ColorizeOptions(prompt="a dog", steps=1))


def test_a_hint_on_skin_is_exact(seen):
    photo = torch.full((1, 3, 64, 64), 0.5)
    hints = torch.zeros(1, 3, 64, 64)
    hints[0, :, 30:34, 10:14] = torch.tensor([0.1, -0.15, 1]).view(3, 1, 1)  # green on a face
    found = rgb_to_ycbcr(seen(photo, hints=hints, hint_methods=["propagation"], prompt="a dog"))[0, 1:, 31, 11]
    assert found.tolist() == pytest.approx([0.1, -0.15], abs=0.01)


def test_a_model_without_the_part_people_changes_nothing(tiny_model, monkeypatch):
    monkeypatch.setattr(skin_tone, "find_skin", None)
    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    gray = torch.rand(1, 1, 64, 64)
    assert torch.equal(colorizer.chroma(gray, prompt="a dog"), colorizer.chroma(gray, prompt="a dog", skin=0.0))
