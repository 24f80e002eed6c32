"""Where a prompt's people are in a photo, and what they wear; and that other things are not where people are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.merging import upsample_chroma
from ..color.sizes import resize, size_of
from ..models.affinity import classifier_maps
from ..models.efficientnet import EfficientNetLite
from ..models.people import WORN, People
from .affinity import classifier_of_control, embedded_size, smoothstep

CERTAIN = 0.6  # probability from which a cell shows a person or what they wear
LEAST = 0.0015  # share of a photo's cells that must be certain
LEAST_MISTAKEN = 0.09  # as a share of the cells that are certainly people, of clothes that are taken for others
# Probabilities that are surely not of a region, and that surely are. Kinds of clothes are taken for each other, and the
# prompt says which one there is, so that less is enough.
BODY, CLOTHES = (0.3, 0.7), (0.15, 0.5)
OTHERS = 0.5, 0.9  # of people, for other things
BACKGROUND = 0.1, 0.4  # of people, for what is behind them

# Clothes that are taken for others: where a photo has none of a prompt's kind, these may be meant. The first of them is
# often meant even where the photo surely has it.
_TAKEN_FOR = {
    "top": ("jacket", "dress"),
    "jacket": ("top", "dress"),
    "dress": ("skirt", "top", "jacket"),
    "skirt": ("dress", "trousers", "shorts"),
    "trousers": ("shorts", "skirt"),
    "shorts": ("trousers", "skirt"),
}
_PEOPLE = frozenset(
    re.findall(
        r"\w+",
        """person people human man woman men women boy girl child children kid baby toddler lady gentleman guy bride
        groom couple family crowd mother father grandmother grandfather friend rider cyclist biker motorcyclist surfer
        dancer skater skateboarder skier snowboarder runner jumper swimmer climber hiker walker pedestrian driver player
        footballer athlete gymnast boxer wrestler golfer fighter soldier sailor officer policeman fireman worker farmer
        fisherman miner cowboy nurse doctor teacher student singer musician guitarist drummer acrobat actor actress
        model waiter waitress chef cook priest nun monk king queen prince princess passenger tourist performer clown
        jockey equestrian parkourist breakdancer ladies babies families policemen firemen""",
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
    "scarf": "scarf scarves tie shawl bowtie necktie",
    "stockings": "stocking sock tights",
}
_WORDS = {word: WORN.index(kind) for kind, words in _WORN.items() for word in words.split()}


def nouns(thing: str) -> tuple[str, ...]:
    """The last word of a thing as it may be listed: as it is, and without a plural's ending."""
    last = (re.findall(r"[a-z]+", thing.lower()) or [""])[-1]
    return last, last.removesuffix("s"), last.removesuffix("es")


def kind_of(thing: str) -> int | None:
    """The channel of a thing by its last word: 0 for people, 1 + k for `WORN[k]`, None for anything else."""
    for word in nouns(thing):
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
        person, worn = self.people.body(self._maps(gray, self.people.config.size))
        return torch.cat([person.sigmoid(), person.sigmoid() * worn.softmax(1)], dim=1)

    @torch.no_grad()
    def skin(self, gray: Tensor, size: int) -> Tensor:
        """Logits of skin (B, 1, h, w) for grey photos (B, 1, H, W) in [0, 1], looked at with this short side, px."""
        return self.people.skin(self._maps(gray, size))

    def _maps(self, gray: Tensor, size: int) -> list[Tensor]:
        small = resize(gray, embedded_size(size_of(gray), size)).clamp(0, 1)
        return classifier_maps(small.to(next(self.people.parameters())), self.classifier)

    def regions(self, gray: Tensor, things: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The regions (B, N, H, W) in [0, 1] of those things that are people or what they wear, 0 everywhere where the
        photo has none; of all people (B, 1, H, W), where no other thing is; and of what may be people, where the
        background is not."""
        kinds = [kind_of(thing) for thing in things]
        seen = _with_mistaken(self.look(gray), {kind for kind in kinds if kind is not None})
        seen = seen * (_certain(seen) >= LEAST)
        everyone, perhaps = smoothstep(seen[:, :1], *OTHERS), smoothstep(seen[:, :1], *BACKGROUND)
        surely = torch.cat([smoothstep(seen[:, :1], *BODY), smoothstep(seen[:, 1:], *CLOTHES)], dim=1)
        none = torch.zeros_like(surely[:, 0])
        found = torch.stack([none if kind is None else surely[:, kind] for kind in kinds], dim=1)
        return _fitted(found, gray), _fitted(everyone, gray), _fitted(perhaps, gray)


def _certain(seen: Tensor) -> Tensor:
    """The share of cells (B, C, 1, 1) that certainly show things of these probabilities (B, C, h, w)."""
    return (seen > CERTAIN).float().mean((2, 3), keepdim=True)


def _with_mistaken(seen: Tensor, named: set[int]) -> Tensor:
    """What `look` returns; clothes that are named, and that a photo does not have, get the probabilities of those that
    they are taken for and that are not named. Cells near those that surely show another kind stay that kind's."""
    result = seen.clone()
    for name, others in _TAKEN_FOR.items():
        kind, *taken = (1 + WORN.index(other) for other in (name, *others))
        meant = [other for other in taken if other not in named]
        if kind not in named or not meant:
            continue
        merged = seen[:, [kind, *meant]].sum(1, keepdim=True)
        apart = seen[:, [other for other in meant if other != taken[0]]]
        if apart.shape[1]:
            merged = merged * (F.max_pool2d(apart, 5, 1, 2).amax(1, keepdim=True) <= CERTAIN)
        enough = _certain(merged) >= LEAST_MISTAKEN * _certain(seen[:, :1])
        missing = _certain(seen[:, kind : kind + 1]) < LEAST
        result[:, kind : kind + 1] = torch.where(missing & enough, merged, seen[:, kind : kind + 1])
    return result


def _fitted(regions: Tensor, gray: Tensor) -> Tensor:
    """Regions (B, N, h, w) at the size of photos (B, 1, H, W), along their edges."""
    layers = [upsample_chroma(layer.expand(-1, 2, -1, -1), gray)[:, :1] for layer in regions.split(1, dim=1)]
    return torch.cat(layers, dim=1).clamp(0, 1)


def people_finder(has: Callable[[str], bool], part: Callable[[str], nn.Module]) -> PeopleFinder | None:
    """That of a model that has the part, and a controller with a classifier."""
    classifier = classifier_of_control(has, part) if has("people") else None
    return None if classifier is None else PeopleFinder(cast("People", part("people")), classifier)
