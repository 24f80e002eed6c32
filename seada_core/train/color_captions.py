"""Colour captions: which thing in a photo has which colour, in words measured in the photo itself.

SeAda (Fig. 1) has colour captions say what grey captions lack. People's captions seldom name colours, and a captioner's
names are often wrong, so the words come from the photo: its largest areas of one colour, each named by the nearest
colour word, with the name of the thing that the area shows where a label or a classifier knows it, and otherwise with
its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.spaces import rgb_to_lab
from ..hints.color_phrases import COLORS
from ..models.classifier import cell_log_probabilities, class_name
from ..models.efficientnet import EfficientNetLite0

GRID = 24  # photos are described at this many cells a side
AREAS = 5  # areas of one colour that a photo is divided into
SMALLEST = 0.08  # share of the photo from which on an area is described; half of it where the area is colourful
MOST = 4  # phrases a caption
CONFIDENT = 0.3  # a classifier's probability from which on its class is named
CLASSIFIED = 224  # side of the classifier's input, px

_NAMES = (
    "red", "maroon", "pink", "orange", "brown", "tan", "beige", "yellow", "olive", "green", "teal", "turquoise", "blue",
    "navy", "purple", "magenta", "azure", "gold",
)  # fmt: skip
_CALLED = {"azure": "blue", "gold": "yellow"}
_NEUTRAL = 7.0  # chroma below which an area is black, grey or white
_SAME = 9.0  # distance in CIE Lab below which areas are one
_PALE, _VIVID, _BRIGHT = 16.0, 30.0, 55.0  # chroma
# labels that name a photo, not a thing in it
_NOT_THINGS = frozenset(
    re.findall(
        r"\w+",
        """color film frontal image indoor landscape male female natural night none object other others outdoor pattern
        people person photo portrait scene still street texture view""",
    )
)


def color_word(lab: Tensor) -> str:
    """The nearest colour word for a CIE Lab colour (3,), "pale" or "bright" before it where that says more."""
    lightness, a, b = lab.tolist()
    chroma = math.hypot(a, b)
    if chroma < _NEUTRAL:
        return "black" if lightness < 25 else "white" if lightness > 82 else "gray"
    best = min(_prototypes(), key=lambda prototype: _difference((lightness, a, b), prototype[1]))[0]
    best = _CALLED.get(best, best)
    if best in ("beige", "tan", "maroon", "olive", "navy"):
        return best  # pale or dark by themselves
    return f"pale {best}" if chroma < _PALE else f"bright {best}" if chroma > _BRIGHT else best


@lru_cache(maxsize=1)
def _prototypes() -> tuple[tuple[str, tuple[float, ...]], ...]:
    rgb = [[int(COLORS[name][k : k + 2], 16) / 255 for k in (1, 3, 5)] for name in _NAMES]
    colors = rgb_to_lab(torch.tensor(rgb).mT[..., None])[..., 0].mT
    return tuple((name, tuple(color)) for name, color in zip(_NAMES, colors.tolist()))


def _difference(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """A squared difference of Lab colours in which hue counts most: areas are paler than paint."""
    chroma, wanted = math.hypot(*one[1:]), math.hypot(*other[1:])
    turn = math.atan2(one[2], one[1]) - math.atan2(other[2], other[1])
    hue = 2 * math.sqrt(chroma * wanted) * math.sin(turn / 2)
    return 0.25 * (one[0] - other[0]) ** 2 + 0.25 * (chroma - wanted) ** 2 + 2 * hue**2


@dataclass(frozen=True)
class Described:
    """Phrases for a photo; and the area (GRID, GRID) of 0 and 1 of the thing that the first one names, if it does."""

    phrases: list[str]
    subject: Tensor | None


class ColorDescriber:
    """Describes the colours of photos in words.

    Args:
        classifier: an EfficientNet-Lite0 with its released weights; it finds the areas of labelled things and names
            those without a label.
    """

    def __init__(self, classifier: EfficientNetLite0):
        self.classifier = classifier

    @classmethod
    def with_package_weights(cls) -> ColorDescriber:
        """The describer with the classifier's released weights; see `EfficientNetLite.load_package_weights`."""
        classifier = EfficientNetLite0()
        classifier.load_package_weights()
        return cls(classifier)

    def add_to(self, record: dict, rgb: Tensor) -> None:
        """Give a sample's record `color_captions` where it has none: its captions, each with the colours of its photo
        (3, H, W) behind it."""
        if not record.get("color_captions"):
            add_phrases(record, self(rgb[None], [record.get("label")])[0])

    def __call__(self, rgb: Tensor, labels: Sequence[str | None]) -> list[list[str]]:
        """Phrases of photos (B, 3, H, W) in [0, 1], such as ["red car", "blue sky", "green grass"], the thing first.

        labels: what each photo shows, where known.
        """
        return [found.phrases for found in self.measure(rgb, labels)]

    def measure(self, rgb: Tensor, labels: Sequence[str | None]) -> list[Described]:
        """What photos show, see `__call__`, with the area of the thing."""
        return [describe(*photo, label) for photo, label in zip(self.look(rgb), labels)]

    @torch.no_grad()
    def look(self, rgb: Tensor) -> list[tuple[Tensor, Tensor, Tensor, float, int]]:
        """What `describe` takes of each photo, on the CPU; the classifier may be on another device."""
        square = F.interpolate(rgb, (CLASSIFIED, CLASSIFIED), mode="bilinear", antialias=True)
        buffer = self.classifier.stem.weight
        cells = cell_log_probabilities(self.classifier(square.to(buffer.device, buffer.dtype))[-1]).exp()
        probability, best = cells.mean((2, 3)).max(1)
        where = cells[torch.arange(len(cells), device=cells.device), best]
        lab = rgb_to_lab(F.interpolate(rgb, (GRID, GRID), mode="area")).float()
        found = (lab.cpu(), areas(lab).cpu(), where.cpu(), probability.tolist(), best.tolist())
        return list(zip(*found))


def add_phrases(record: dict, phrases: Sequence[str]) -> None:
    """Give a sample's record `color_captions`: its captions, each with these phrases behind it."""
    colors = ", ".join(phrases)
    captions = record.get("captions") or [""]
    record["color_captions"] = [", ".join(filter(None, (caption, colors))) for caption in captions]


def describe(
    lab: Tensor, members: Tensor, where: Tensor, probability: float, best: int, label: str | None
) -> Described:
    """What one photo shows.

    Args:
        lab: (3, GRID, GRID).
        members: its areas, see `areas`.
        where: (h, w), how probable the class `best` is in each part of it.
        probability: of that class in the whole photo.
    """
    thing = _thing(label)
    if thing is None and probability > CONFIDENT:
        thing = class_name(best)
    weights = _centre()
    if probability > CONFIDENT:
        found = F.interpolate(where[None, None], (GRID, GRID), mode="bilinear")[0, 0]
        weights = weights * found / found.max().clamp(min=1e-6)
    members = _merged(lab, members)
    shares = members.mean((1, 2))
    colors = [(lab * m).sum((1, 2)) / m.sum().clamp(min=1e-6) for m in members]
    vivid = [float(c[1:].norm()) for c in colors]
    likely = [
        float((weights * m).sum() / m.sum().clamp(min=1e-6) * s.sqrt() * (1 + v / 40))
        for m, s, v in zip(members, shares, vivid)
    ]
    order = sorted(range(len(members)), key=lambda k: -float(shares[k]) * (1 + vivid[k] / 20))
    phrases = []
    subject = max(order, key=lambda k: likely[k])
    if thing is not None:
        phrases.append(f"{color_word(colors[subject])} {thing}")
        order.remove(subject)
    for k in order:
        if shares[k] < (SMALLEST / 2 if vivid[k] > _VIVID else SMALLEST):
            continue
        phrase = f"{color_word(colors[k])} {_place(lab, members[k], colors[k])}"
        if phrase not in phrases:
            phrases.append(phrase)
    return Described(phrases[:MOST], None if thing is None else members[subject])


def _centre() -> Tensor:
    axis = torch.linspace(-1, 1, GRID)
    return torch.exp(-(axis[:, None].square() + axis.square()) / 0.5)


def _thing(label: str | None) -> str | None:
    """The noun of a label, such as "car" of "car, red"; None for labels that name no thing."""
    words = (label or "").lower().split(",")[0].split("(")[0].split()
    if not words or len(words) > 3 or any(word in _NOT_THINGS or not word.isalpha() for word in words):
        return None
    return " ".join(words)


def areas(lab: Tensor, rounds: int = 6) -> Tensor:
    """Photos (B, 3, n, n) as areas of one colour, (B, AREAS, n, n) of 0 and 1: k-means of colour and, less, place.

    It starts from the mean and then, in turn, from the cell farthest from all centres, so that equal photos have equal
    areas.
    """
    batch, _, n, _ = lab.shape
    axis = torch.linspace(0, 12, n, device=lab.device)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(batch, -1, -1, -1)
    scale = torch.tensor([0.5, 1.5, 1.5], device=lab.device)[:, None, None]
    points = torch.cat([lab.float() * scale, place], 1).flatten(2).mT  # (B, n², 5)
    centres = points.mean(1, keepdim=True)
    for _ in range(AREAS - 1):
        farthest = torch.cdist(points, centres).min(-1).values.argmax(1)
        centres = torch.cat([centres, points[torch.arange(batch), farthest][:, None]], 1)
    for _ in range(rounds):
        members = F.one_hot(torch.cdist(points, centres).argmin(-1), AREAS).float()
        counts = members.sum(1)[..., None]
        centres = torch.where(counts > 0, members.mT @ points / counts.clamp(min=1), centres)
    return members.mT.unflatten(-1, (n, n))


def _merged(lab: Tensor, members: Tensor) -> Tensor:
    """Areas without those of nearly the same colour as a larger one, which get their cells."""
    kept: list[Tensor] = []
    means: list[Tensor] = []
    for member in sorted(members, key=lambda m: -float(m.sum())):
        mean = (lab * member).sum((1, 2)) / member.sum().clamp(min=1e-6)
        near = next((k for k, other in enumerate(means) if (mean - other).norm() < _SAME), None)
        if near is None:
            kept.append(member)
            means.append(mean)
        else:
            kept[near] = kept[near] + member
    return torch.stack(kept)


def _place(lab: Tensor, member: Tensor, color: Tensor) -> str:
    """What an area is by its colour and place, or else where it is."""
    axis = torch.linspace(0, 1, GRID)
    y = float((member.mean(1) * axis).sum() / member.mean(1).sum())
    x = float((member.mean(0) * axis).sum() / member.mean(0).sum())
    inner = member[1:] * member[:-1]
    rough = float(((lab[0, 1:] - lab[0, :-1]).abs() * inner).sum() / inner.sum().clamp(min=1))
    lightness, a, b = color.tolist()
    blue, green = b < -6 and abs(b) > abs(a), a < -5 and b > 4
    if blue and y < 0.45 and rough < 4 and lightness > 40 and member[0].mean() > 0.3:
        return "sky"
    if blue and y > 0.5 and member[-1].mean() > 0.3:
        return "water"
    if green and rough > 2:
        return "grass" if y > 0.6 and rough < 9 else "leaves"
    edge = torch.cat([member[0], member[-1], member[:, 0], member[:, -1]]).mean()
    if max(abs(y - 0.5), abs(x - 0.5)) < 0.14:
        return "background" if edge > 0.35 else "center"
    if abs(y - 0.5) >= abs(x - 0.5):
        return "top" if y < 0.5 else "bottom"
    return "left" if x < 0.5 else "right"
