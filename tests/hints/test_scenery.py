"""Sky, water, grass and leaves of a prompt: which words mean them, and where they are."""

import pytest
import torch

from seada_core import steering
from seada_core.hints import scenery as finding
from seada_core.hints.scenery import SceneryFinder, scenery_finder
from seada_core.models.efficientnet import EfficientNetLite0
from seada_core.models.scenery import SCENERY, Scenery
from seada_core.pipeline import Colorizer
from seada_core.presets import SceneryConfig


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("sky", "sky"),
        ("Evening skies", "sky"),
        ("deep sea", "water"),
        ("lakes", "water"),
        ("lawn", "grass"),
        ("grasses", "grass"),
        ("palm trees", "leaves"),
        ("leaves", "leaves"),
        ("bushes", "leaves"),
        ("sea lion", None),
        ("tree trunk", None),
        ("wood", None),
        ("glass", None),
        ("", None),
    ],
)
def test_the_last_word_says_what_a_thing_is(thing, kind):
    found = finding.kind_of(thing)
    assert (None if found is None else SCENERY[found]) == kind


class Seen(SceneryFinder):
    """A finder that sees sky in the upper half of the photo, and leaves in a single cell."""

    __slots__ = ()

    def look(self, gray):
        seen = torch.zeros(len(gray), len(SCENERY), 12, 12)
        seen[:, SCENERY.index("sky"), :6] = 0.9
        seen[:, SCENERY.index("leaves"), 8, 8] = 0.9
        return seen


def test_scenery_is_found_and_nothing_else():
    gray = torch.full((1, 1, 48, 48), 0.5)
    scores = Seen(None, None).scores(gray, ["blue sky", "tree", "water", "car"])
    assert scores.shape == (1, 4, 12, 12)
    sky, tree, water, car = scores[0]
    assert (sky[:6] == 0.9).all() and not sky[6:].any()
    assert not tree.any() and not water.any() and not car.any()  # one cell is not enough
    assert not Seen(None, None).scores(gray, ["car", "dog"]).any()


def test_scenery_has_scores_of_its_own_and_other_things_those_of_the_classifier(monkeypatch):
    """A photo of two plain halves; the classifier's scores say for both things that they are in the lower one."""
    scores = torch.zeros(1, 2, 8, 8)
    scores[:, :, 5:] = 1
    mini = Colorizer.from_pretrained("mini")
    monkeypatch.setattr(steering, "scenery_finder", lambda has, part: Seen(None, None))
    gray = torch.full((1, 1, 96, 96), 0.8)
    gray[:, :, 48:] = 0.3
    sky, car = steering._masks(mini, gray, ["sky", "car"], scores, "auto")[0]
    assert sky[8:40].mean() > 0.9 and sky[60:].mean() < 0.1
    assert car[60:].mean() > 0.9 and car[:40].mean() < 0.1
    sky, car = steering._masks(mini, gray, ["sky", "car"], scores, "attention")[0]
    assert torch.equal(sky, car)  # other ways to find things do without


def test_a_photo_is_looked_at_in_its_shape():
    torch.manual_seed(0)
    finder = SceneryFinder(Scenery(SceneryConfig(width=16, size=64)).eval(), EfficientNetLite0().eval())
    for size, grid in (((64, 64), (16, 16)), ((400, 601), (16, 24)), ((1, 1), (16, 16))):
        seen = finder.look(torch.rand(2, 1, *size))
        assert seen.shape == (2, len(SCENERY), *grid)
        assert seen.min() >= 0 and seen.sum(1).max() <= 1


def test_a_model_without_the_part_has_no_finder():
    assert scenery_finder(lambda part: part != "scenery", lambda part: None) is None
    assert scenery_finder(lambda part: part != "controlnet_rca", lambda part: None) is None
