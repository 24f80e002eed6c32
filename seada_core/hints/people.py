"""Where a prompt's people are in a photo, and what they wear; and that other things are not where people are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import resize, size_of
from ..models.efficientnet import EfficientNetLite
from ..models.people import WORN, People
from .affinity import classifier_of_control, embedded_size

CERTAIN = 0.6  # probability from which a cell shows a person or what they wear
LEAST = 0.0015  # share of a photo's cells that must be certain

_PEOPLE = frozenset(
    re.findall(
        r"\w+",
        """person people human man woman men women boy girl child children kid baby toddler lady gentleman guy bride
        groom couple family crowd mother father grandmother grandfather friend rider cyclist biker motorcyclist surfer
        dancer skater skateboarder skier snowboarder runner jumper swimmer climber hiker walker pedestrian driver player
        footballer athlete gymnast boxer wrestler golfer fighter soldier sailor officer policeman fireman worker farmer
        fisherman miner cowboy nurse doctor teacher student singer musician guitarist drummer acrobat actor actress
        model waiter waitress chef cook priest nun monk king queen prince princess passenger tourist performer clown
        jockey equestrian parkourist breakdancer""",
    )
)
_WORN = {
    "hair": "hair haircut beard moustache mustache braid ponytail",
    "skin": "skin complexion",
    "hat": "hat cap bonnet helmet beret fedora beanie headscarf",
    "top": "shirt blouse sweater pullover jumper sweatshirt hoodie tee jersey tunic",
    "jacket": "jacket coat blazer cardigan suit vest waistcoat cape parka raincoat overcoat uniform tuxedo",
    "dress": "dress gown romper sundress frock",
    "skirt": "skirt kilt miniskirt",
    "trousers": "trousers pants jeans leggings slacks overalls",
    "shorts": "shorts",
    "shoes": "shoe boot sandal sneaker heel slipper loafer",
    "bag": "bag handbag purse backpack satchel suitcase",
    "scarf": "scarf tie shawl bowtie necktie",
    "stockings": "stocking sock tights",
}
_WORDS = {word: WORN.index(kind) for kind, words in _WORN.items() for word in words.split()}


def _kind(thing: str) -> int | None:
    """The channel of a thing by its last word: 0 for people, 1 + k for `WORN[k]`, None for anything else."""
    last = (re.findall(r"[a-z]+", thing.lower()) or [""])[-1]
    for word in (last, last.removesuffix("s"), last.removesuffix("es")):
        if word in _PEOPLE:
            return 0
        if word in _WORDS:
            return 1 + _WORDS[word]
    return None


class PeopleFinder(NamedTuple):
    """The part that knows people, and the classifier whose features it takes: the controller's."""

    people: People
    classifier: EfficientNetLite

    @torch.no_grad()
    def look(self, gray: Tensor) -> Tensor:
        """Probabilities (B, 15, h, w) for grey photos (B, 1, H, W) in [0, 1]: of people, and of each of `WORN`."""
        small = resize(gray, embedded_size(size_of(gray), self.people.config.size)).clamp(0, 1)
        person, worn = self.people.look(small.to(self.people.out.weight), self.classifier)
        return torch.cat([person.sigmoid(), person.sigmoid() * worn.softmax(1)], dim=1)

    def regions(self, gray: Tensor, things: Sequence[str], scores: Tensor) -> Tensor:
        """Scores (B, N, h, w) of things, with those of people and what they wear where such are in the photo, and the
        others' without the people.

        Args:
            scores: (B, N, any h, any w), of all things by another way.
        """
        seen = self.look(gray)
        found = F.interpolate(scores.to(seen), size_of(seen), mode="bilinear")
        there = (seen > CERTAIN).float().mean((2, 3)) >= LEAST
        result = []
        for n, kind in enumerate(_kind(thing) for thing in things):
            if kind is None:
                result.append(found[:, n] * (1 - seen[:, 0]))
            else:
                result.append(torch.where(there[:, kind, None, None], seen[:, kind], found[:, n]))
        return torch.stack(result, dim=1)


def people_finder(has: Callable[[str], bool], part: Callable[[str], nn.Module]) -> PeopleFinder | None:
    """That of a model that has the part, and a controller with a classifier."""
    classifier = classifier_of_control(has, part) if has("people") else None
    return None if classifier is None else PeopleFinder(cast("People", part("people")), classifier)
