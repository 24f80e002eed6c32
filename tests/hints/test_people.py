"""People and what they wear: which words mean them, and how their regions and others' are put together."""

import pytest
import torch
import torch.nn.functional as F

from seada_core import steering
from seada_core.hints import people as finding
from seada_core.hints.people import PeopleFinder, people_finder
from seada_core.models.efficientnet import EfficientNetLite0
from seada_core.models.people import WORN, People, people_loss
from seada_core.pipeline import Colorizer
from seada_core.presets import PeopleConfig


@pytest.mark.parametrize(
    "thing, kind",
    [
        ("woman", "person"),
        ("old men", "person"),
        ("dancers", "person"),
        ("two ladies", "person"),
        ("summer dress", "dress"),
        ("leather boots", "shoes"),
        ("Wool coat", "jacket"),
        ("hair", "hair"),
        ("glass", None),
        ("dress shop", None),
        ("1950s", None),
        ("", None),
    ],
)
def test_the_last_word_says_what_a_thing_is(thing, kind):
    names = ("person", *WORN)
    found = finding.kind_of(thing)
    assert (None if found is None else names[found]) == kind


class Seen(PeopleFinder):
    """A finder that sees a person in the left half of the photo, a dress below."""

    __slots__ = ()

    def look(self, gray):
        seen = torch.zeros(len(gray), 1 + len(WORN), 8, 8)
        seen[:, 0, :, :4] = 0.9
        seen[:, 1 + WORN.index("dress"), 4:, :4] = 0.8
        return seen


def test_people_and_what_they_wear_are_found_and_nothing_else():
    regions, everyone, perhaps = Seen(None, None).regions(
        torch.full((1, 1, 32, 32), 0.5), ["woman", "red dress", "hat", "horse"]
    )
    assert regions.shape == (1, 4, 32, 32) and everyone.shape == (1, 1, 32, 32)
    woman, dress, hat, horse = regions[0]
    assert woman[:, :12].min() > 0.9 and woman[:, 20:].max() < 0.1
    assert dress[20:, :12].min() > 0.9 and dress[:12].max() < 0.1 and dress[:, 20:].max() < 0.1
    assert not hat.any() and not horse.any()  # no hat is seen, and horses are not its matter
    assert everyone[0, 0, :, :12].min() > 0.9 and everyone[0, 0, :, 20:].max() < 0.1
    torch.testing.assert_close(perhaps, everyone)


def test_a_few_doubtful_cells_are_no_person():
    class Doubtful(Seen):
        __slots__ = ()

        def look(self, gray):
            return super().look(gray).clamp(max=finding.CERTAIN)

    assert not any(x.any() for x in Doubtful(None, None).regions(torch.rand(1, 1, 32, 32), ["woman"]))


def test_what_may_be_a_person_is_no_background():
    class Doubtful(Seen):
        __slots__ = ()

        def look(self, gray):
            seen = super().look(gray)
            seen[:, 0, :, 4:] = 0.35  # of two cells side by side, one surely shows a person and one perhaps
            return seen

    _, everyone, perhaps = Doubtful(None, None).regions(torch.full((1, 1, 32, 32), 0.5), ["woman"])
    assert everyone[..., 20:].max() < 0.1 and perhaps[..., 20:].min() > 0.9


def worn(**shares):
    """What a finder sees in two photos: people everywhere, and in the first clothes in rows of cells."""
    seen = torch.zeros(2, 1 + len(WORN), 16, 16)
    seen[:, 0] = 0.95
    for kind, (rows, probability) in shares.items():
        seen[0, 1 + WORN.index(kind), rows] = probability
    return seen


def test_clothes_that_are_named_and_not_seen_are_those_they_are_taken_for():
    top, dress, skirt = (1 + WORN.index(kind) for kind in ("top", "dress", "skirt"))
    seen = worn(dress=(slice(0, 8), 0.3), top=(slice(0, 8), 0.35), skirt=(slice(8, 16), 0.9))
    found = finding._with_mistaken(seen, {dress})
    torch.testing.assert_close(found[0, dress, :8], torch.full((8, 16), 0.65))
    assert (found[0, dress, 8:] == 0.9).all()  # of a long dress often only the skirt is seen, and surely so
    others = [c for c in range(1 + len(WORN)) if c != dress]
    assert torch.equal(found[:, others], seen[:, others]) and torch.equal(found[1], seen[1])
    found = finding._with_mistaken(seen, {dress, top, skirt})  # each has its own name in the prompt
    assert torch.equal(found[:, dress], seen[:, dress])
    assert torch.equal(finding._with_mistaken(seen, {skirt}), seen)  # is seen


def test_clothes_that_surely_are_others_stay_these():
    dress, top = (1 + WORN.index(kind) for kind in ("dress", "top"))
    seen = worn(jacket=(slice(0, 8), 0.9), top=(slice(8, 16), 0.7))
    assert torch.equal(finding._with_mistaken(seen, {dress}), seen)  # both surely are something else
    seen[0, top] *= 0.8
    seen[0, dress, 6:] = 0.1
    found = finding._with_mistaken(seen, {dress})[0, dress]
    assert not found[:10].any()  # cells beside those of the jacket, too
    torch.testing.assert_close(found[10:], torch.full((6, 16), 0.66))
    seen[0, dress, 6:, 1:] = 0
    seen[0, top, :, 1:] = 0
    assert finding._with_mistaken(seen, {dress})[0, dress, 12, 0] == 0.1  # a few cells of a large person are not enough


def test_other_things_are_not_where_people_are(monkeypatch):
    """Words by recognition: the woman takes her own region, and the horse that of its scores, without her."""
    scores = torch.ones(1, 2, 8, 8)
    scores[:, 0] = 0  # the classifier knows no women
    scores[:, 1, :, 6:] = 0.1
    mini = Colorizer.from_pretrained("mini")
    monkeypatch.setattr(steering, "people_finder", lambda has, part: Seen(None, None))
    gray = torch.full((1, 1, 64, 64), 0.5)
    woman, horse = steering._masks(mini, gray, ["woman", "horse"], scores, "auto")[0]
    assert woman[:, :24].min() > 0.9 and woman[:, 40:].max() < 0.1
    assert horse[:, :20].mean() < 0.3 < horse[:, 36:46].mean()
    woman, horse = steering._masks(mini, gray, ["woman", "horse"], scores, "attention")[0]
    assert not woman.any() and horse[:, :20].mean() > 0.3


def test_a_background_is_what_people_and_the_prompts_other_things_do_not_cover(monkeypatch):
    """The woman is on the left; the scores say that the horse is at the top, and that all is background."""
    scores = torch.zeros(1, 2, 8, 8)
    scores[:, 0, :3] = 1
    scores[:, 1] = 1
    mini = Colorizer.from_pretrained("mini")
    gray = torch.full((1, 1, 64, 64), 0.5)
    gray[..., :24, :] = 0.9
    monkeypatch.setattr(steering, "people_finder", lambda has, part: Seen(None, None))
    horse, behind = steering._masks(mini, gray, ["horse", "blue backdrop"], scores, "auto")[0]
    torch.testing.assert_close(behind[:, 40:], 1 - horse[:, 40:])
    assert behind[40:, 40:].min() > 0.9 and behind[:, :24].max() < 0.1
    [behind] = steering._masks(mini, gray, ["background"], scores[:, 1:], "auto")[0]
    assert behind[:, 40:].min() > 0.9 and behind[:, :24].max() < 0.1
    [behind] = steering._masks(mini, gray, ["background"], scores[:, 1:], "attention")[0]
    assert behind[:, :24].mean() > 0.3  # other ways to find things look for it as for any other
    monkeypatch.setattr(steering, "people_finder", lambda has, part: None)
    [behind] = steering._masks(mini, gray, ["background"], scores[:, 1:], "auto")[0]
    assert not behind.any()  # of nothing


def test_a_photo_is_looked_at_in_its_shape_and_worn_things_are_shares_of_people():
    torch.manual_seed(0)
    finder = PeopleFinder(People(PeopleConfig(width=16, size=64)).eval(), EfficientNetLite0().eval())
    for size, grid in (((64, 64), (16, 16)), ((400, 601), (16, 24)), ((1, 1), (16, 16))):
        seen = finder.look(torch.rand(2, 1, *size))
        assert seen.shape == (2, 1 + len(WORN), *grid)
        torch.testing.assert_close(seen[:, 1:].sum(1), seen[:, 0])
    assert finder.skin(torch.rand(2, 1, 400, 601), 128).shape == (2, 1, 32, 48)


def test_the_loss_counts_what_is_known():
    generator = torch.Generator().manual_seed(0)
    person, worn, skin = (torch.randn(2, count, 3, 3, generator=generator) for count in (1, len(WORN), 1))
    labels = torch.tensor([0, 1, 255, 2, 4, 15, 255, 0, 1]).view(1, 3, 3).expand(2, -1, -1)
    are, wear, bare = [], [], []
    for b, y, x in ((b, y, x) for b in range(2) for y in range(3) for x in range(3)):
        label = int(labels[b, y, x])
        if label < 255:
            are.append(-F.logsigmoid(person[b, 0, y, x] * (1 if label else -1)))
        if 2 <= label < 255:
            wear.append(-worn[b, :, y, x].log_softmax(0)[label - 2])
        if label not in (1, 255):
            bare.append(-F.logsigmoid(skin[b, 0, y, x] * (1 if WORN[label - 2] == "skin" and label else -1)))
    expected = torch.stack(are).mean() + 0.5 * torch.stack(wear).mean() + torch.stack(bare).mean()
    torch.testing.assert_close(people_loss(person, worn, skin, labels), expected)
    nothing = people_loss(person, worn, skin, torch.full((2, 3, 3), 255))
    assert nothing == 0


def test_a_model_without_the_part_has_no_finder():
    assert people_finder(lambda part: part != "people", lambda part: None) is None
    assert people_finder(lambda part: part != "controlnet_rca", lambda part: None) is None
