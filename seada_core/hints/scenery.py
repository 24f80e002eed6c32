"""Where a prompt's sky, water, grass and leaves are in a photo: no classifier of objects has classes for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..color.sizes import resize, size_of
from ..models.affinity import classifier_maps
from ..models.efficientnet import EfficientNetLite
from ..models.scenery import SCENERY, Scenery
from .affinity import classifier_of_control, embedded_size
from .people import nouns

CERTAIN = 0.6  # probability from which a cell shows a kind
LEAST = 0.01  # share of a photo's cells that must be certain

_WORDS = {
    word: SCENERY.index(kind)
    for kind, words in {
        "sky": "sky skies sunset sunrise",
        "water": "water sea ocean lake river pond pool stream canal lagoon bay harbor harbour wave",
        "grass": "grass lawn meadow field pasture turf",
        "leaves": "leaf leave foliage tree bush hedge shrub forest woods jungle plant vegetation greenery ivy fern",
    }.items()
    for word in words.split()
}


def kind_of(thing: str) -> int | None:
    """The place in `SCENERY` of a thing by its last word; None for anything else."""
    return next((_WORDS[word] for word in nouns(thing) if word in _WORDS), None)


class SceneryFinder(NamedTuple):
    """The part that knows scenery, and the classifier whose features it takes: the controller's."""

    scenery: Scenery
    classifier: EfficientNetLite

    @torch.no_grad()
    def look(self, gray: Tensor) -> Tensor:
        """Probabilities (B, 4, h, w) of `SCENERY` for grey photos (B, 1, H, W) in [0, 1]."""
        small = resize(gray, embedded_size(size_of(gray), self.scenery.config.size)).clamp(0, 1)
        maps = classifier_maps(small.to(next(self.scenery.parameters())), self.classifier)
        return self.scenery(maps).softmax(1)[:, 1:]

    def scores(self, gray: Tensor, things: Sequence[str]) -> Tensor:
        """How probable it is (B, N, h, w) that cells show those things that are scenery; 0 everywhere for others, and
        where the photo has none."""
        kinds = [kind_of(thing) for thing in things]
        if all(kind is None for kind in kinds):
            return gray.new_zeros(len(gray), len(things), 1, 1)
        seen = self.look(gray)
        seen = seen * ((seen > CERTAIN).float().mean((2, 3), keepdim=True) >= LEAST)
        none = torch.zeros_like(seen[:, 0])
        return torch.stack([none if kind is None else seen[:, kind] for kind in kinds], dim=1)


def scenery_finder(has: Callable[[str], bool], part: Callable[[str], nn.Module]) -> SceneryFinder | None:
    """That of a model that has the part, and a controller with a classifier."""
    classifier = classifier_of_control(has, part) if has("scenery") else None
    return None if classifier is None else SceneryFinder(cast("Scenery", part("scenery")), classifier)
