"""The palette bank: historical colour schemes, and retrieval of those that suit a photo or its caption.

The colours in `palettes.json` are our own sRGB approximations of named pigments, dyes and materials. A scheme is a
palette of `Colorizer` with a strength: its colours attract the chroma of pixels of similar lightness.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..files.hint_format import hex_color

if TYPE_CHECKING:  # torch is not needed to list names and colours
    from PIL import Image
    from torch import Tensor, nn

__all__ = [
    "AUTO",
    "Scheme",
    "close_names",
    "find_scheme",
    "join",
    "load_schemes",
    "parse_choice",
    "retrieve",
    "swatches",
]

BANK = Path(__file__).with_name("palettes.json")
AUTO = ("auto", "automatic")  # names of retrieval in commands and nodes, reserved
MAX_BYTES = 2_000_000  # of a file
LENGTHS = {"name": 60, "era": 60, "source": 300, "description": 2000}  # maximum lengths, characters
MAX_COLORS = 32
_NOT_IN_NAMES = set('<>#,;/\\"')  # names appear in lists, command lines and web pages


@dataclass(frozen=True)
class Scheme:
    """Colours that belong together, their origin, and the photos that they suit.

    `description` is a comma-separated list of phrases like those of captions. `colors` are "#rrggbb" in lower case,
    `materials` the pigment, dye or thing of each.
    """

    name: str
    era: str
    source: str
    description: str
    colors: tuple[str, ...]
    materials: tuple[str, ...]

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(phrase.strip() for phrase in self.description.split(",") if phrase.strip())


# --- files ------------------------------------------------------------------------------------------------------------


def load_schemes(*more: str | Path) -> dict[str, Scheme]:
    """The bank's schemes by name, then those of other files, or of the .json files in folders.

    A scheme replaces an earlier one of the same name, ignoring case.

    Raises:
        ValueError: a file cannot be read or does not have the bank's format; the message names the file and the scheme.
    """
    schemes = dict(_bank())
    for path in map(Path, more):
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            for scheme in read_schemes(file):
                old = next((name for name in schemes if name.casefold() == scheme.name.casefold()), None)
                if old is not None:
                    del schemes[old]
                schemes[scheme.name] = scheme
    return schemes


@lru_cache(maxsize=1)
def _bank() -> Mapping[str, Scheme]:
    return {scheme.name: scheme for scheme in read_schemes(BANK)}


def read_schemes(path: str | Path) -> list[Scheme]:
    """The schemes of one file. Raises ValueError naming it."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size} bytes; a palette file has at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read palettes from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {_short(error)}") from error
    entries = data.get("schemes") if isinstance(data, dict) else None
    if not isinstance(entries, list) or data.keys() - {"schemes", "note"}:
        raise ValueError(f'{path}: expected {{"schemes": [...]}} and, optionally, a "note"')
    if not entries:
        raise ValueError(f"{path} has no schemes; write at least one, or remove the file")
    schemes: dict[str, Scheme] = {}
    for number, entry in enumerate(entries, 1):
        scheme = _parse(entry, f"{path}, scheme {number}")
        if scheme.name.casefold() in schemes:
            raise ValueError(f"{path}, scheme {number}: the name {scheme.name!r} is already used; names must be unique")
        schemes[scheme.name.casefold()] = scheme
    return list(schemes.values())


def _parse(entry: Any, where: str) -> Scheme:
    required, optional = {"name", "description", "colors"}, {"era", "source"}
    _check_fields(entry, where, required, optional)
    texts = {key: _text(entry.get(key, ""), f"{where}: {key}", limit) for key, limit in LENGTHS.items()}
    name = texts["name"]
    if not name:
        raise ValueError(f"{where} has an empty name")
    if _NOT_IN_NAMES & set(name):
        raise ValueError(f"{where}: the name {name!r} may not contain any of {' '.join(sorted(_NOT_IN_NAMES))}")
    if name.casefold() in AUTO or name.casefold().endswith(".json"):
        raise ValueError(f"{where}: the name {name!r} is reserved; choose another")
    where = f"{where} ({name})"
    if not any(_words(texts["description"])):
        raise ValueError(f"{where} needs a description: what photos it suits, in words separated by commas")
    colors = entry["colors"]
    if not isinstance(colors, list) or not 1 <= len(colors) <= MAX_COLORS:
        count = len(colors) if isinstance(colors, list) else "not a list"
        raise ValueError(f"{where}: colors is {count}; expected a list of 1 to {MAX_COLORS} colours")
    values, materials = [], []
    for number, color in enumerate(colors, 1):
        at = f"{where}, colour {number}"
        _check_fields(color, at, {"color", "name"}, set())
        try:
            values.append(hex_color(color["color"]))
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from None
        materials.append(_text(color["name"], f"{at}: name", LENGTHS["name"]))
    return Scheme(**texts, colors=tuple(values), materials=tuple(materials))


def _check_fields(entry: object, where: str, required: set[str], optional: set[str]) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object with {', '.join(sorted(required))}, got {_short(entry)}")
    for key in sorted(required - entry.keys()):
        raise ValueError(f"{where} has no {key!r}")
    for key in sorted(entry.keys() - required - optional):
        allowed = ", ".join(sorted(required | optional))
        raise ValueError(f"{where} has an unknown field {_short(key)}; it may have {allowed}")


def _text(value: object, where: str, limit: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {_short(value)}; expected a text")
    if len(value) > limit:
        raise ValueError(f"{where} has {len(value)} characters; at most {limit} are allowed")
    if not value.isprintable():
        raise ValueError(f"{where} has a line break or another unprintable character")
    return value.strip()


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else reprlib.repr(value)  # a plain repr may have megabytes
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- names ------------------------------------------------------------------------------------------------------------


def close_names(name: str, schemes: Iterable[str]) -> list[str]:
    """Up to three names similar to `name`, the most similar first: by letters, or by a shared word."""
    known = {candidate.casefold(): candidate for candidate in schemes}
    found = difflib.get_close_matches(name.casefold()[:200], known, n=3, cutoff=0.5)
    words = set(name.casefold().split())
    found += [candidate for candidate in known if candidate not in found and words & set(candidate.split())]
    return [known[candidate] for candidate in found[:3]]


def find_scheme(name: str, schemes: Mapping[str, Scheme]) -> Scheme:
    """The scheme of a name, ignoring case. Raises ValueError that lists similar names."""
    scheme = schemes.get(name) or next((s for s in schemes.values() if s.name.casefold() == name.casefold()), None)
    if scheme is None:
        close = close_names(name, schemes)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {len(schemes)} schemes"
        raise ValueError(f"no colour scheme {_short(name)}; {hint}")
    return scheme


def parse_choice(text: str) -> dict[str, Scheme]:
    """The schemes that "auto" (all), a name (one) or the path of a JSON file (its own) stand for.

    Raises:
        ValueError: there is no such scheme, or the file is not a palette file.
    """
    text = text.strip()
    if not text:
        raise ValueError("the palette is empty: expected colours, the name of a colour scheme, auto, or a JSON file")
    schemes = load_schemes()
    if text.casefold() in AUTO:
        return schemes
    if text.casefold().endswith(".json"):
        return {scheme.name: scheme for scheme in read_schemes(text)}
    scheme = find_scheme(text, schemes)
    return {scheme.name: scheme}


def join(schemes: Iterable[Scheme]) -> tuple[str, ...]:
    """The colours of all schemes without duplicates, in order."""
    return tuple(dict.fromkeys(color for scheme in schemes for color in scheme.colors))


# --- retrieval --------------------------------------------------------------------------------------------------------

_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at by with from to into near next beside behind over under along across and or its his her "
        "their is are was be as up down some two three four photo photograph picture image view close",
    )
)
_SEEN_CLASSES = 20  # the classifier's most probable classes that are used


def retrieve(
    query: str | Tensor,
    schemes: Mapping[str, Scheme],
    captioner: nn.Module | None = None,
    count: int | None = None,
) -> list[tuple[Scheme, float]]:
    """The schemes that suit a photo, nearest first, with similarities in (0, 2]; those with similarity 0 are skipped.

    Words are compared: those of the caption, or for a photo those of the classes predicted by the classifier in
    `captioner`, weighted by probability. Rare words of the schemes' descriptions weigh more (idf). A similarity is the
    cosine to the nearest phrase of a description plus that to the whole description; ties keep the schemes' order.

    Args:
        query: a caption; or a grey photo (1, 1, H, W) in [0, 1], which needs a captioner. A captioner without a
            classifier writes a caption.
        count: the maximum number of schemes.
    """
    bag = _caption_bag(query) if isinstance(query, str) else _photo_bag(query, captioner)
    index = _index(tuple(scheme.description for scheme in schemes.values()))
    query_vector = index.vector(bag)
    ranked = sorted(
        ((scheme, index.similarity(query_vector, i)) for i, scheme in enumerate(schemes.values())),
        key=lambda pair: -pair[1],
    )
    return [pair for pair in ranked if pair[1] > 0][:count]


def _caption_bag(caption: str) -> dict[str, float]:
    return dict.fromkeys(_words(caption), 1.0)


def _photo_bag(photo: Tensor, captioner: nn.Module | None) -> dict[str, float]:
    from ..models.captioners.coca import classifier_of
    from ..models.classifier import class_words, recognize

    if captioner is None:
        raise ValueError("finding a photo's scheme needs a captioner, and there is none; give a caption instead")
    classifier = classifier_of(captioner)
    if classifier is None:
        return _caption_bag(captioner(photo.expand(-1, 3, -1, -1))[0])
    values, classes = recognize(classifier, photo)[0].topk(_SEEN_CLASSES)
    words = class_words()
    bag: Counter[str] = Counter()
    for probability, index in zip(values.tolist(), classes.tolist()):
        bag.update(dict.fromkeys(_words(words[index]), probability))
    return dict(bag)


class _Index:
    """Descriptions as idf-weighted bags of words of unit length: one for each phrase, and one for the whole."""

    def __init__(self, descriptions: Sequence[str]):
        whole = [set(_words(text)) for text in descriptions]
        frequency = Counter(word for words in whole for word in words)
        self._idf = {word: math.log((len(whole) + 1) / (n + 0.5)) for word, n in frequency.items()}
        self._unknown = math.log((len(whole) + 1) / 0.5)
        self._whole = [self.vector(dict.fromkeys(words, 1.0)) for words in whole]
        self._phrases = [[self.vector(_caption_bag(phrase)) for phrase in text.split(",")] for text in descriptions]

    def vector(self, bag: Mapping[str, float]) -> dict[str, float]:
        weighted = {word: value * self._idf.get(word, self._unknown) for word, value in bag.items()}
        length = math.sqrt(sum(value * value for value in weighted.values())) or 1.0
        return {word: value / length for word, value in weighted.items()}

    def similarity(self, query: dict[str, float], scheme: int) -> float:
        nearest = max(_dot(query, phrase) for phrase in self._phrases[scheme])
        return nearest + _dot(query, self._whole[scheme])


_index = lru_cache(maxsize=4)(_Index)


def _dot(a: dict[str, float], b: dict[str, float]) -> float:
    return sum(value * b[word] for word, value in a.items() if word in b)


def _words(text: str) -> list[str]:
    """Stems of the words that are not stop words: lower case, without plural and -ing."""
    return [_stem(word) for word in re.findall(r"[^\W\d_]+", text.casefold().replace("'s", "")) if word not in _STOP]


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("shes", "ches", "xes", "sses")) else word[:-1]
    return word[:-3] if len(word) > 5 and word.endswith("ing") else word


# --- pictures ---------------------------------------------------------------------------------------------------------

TILE, TITLE, LABEL = 132, 30, 40  # width and height of a tile, height of a scheme's name and of the colours' names, px


def swatches(schemes: Sequence[Scheme]) -> Image.Image:
    """Tiles of each scheme's colours with their names, one row per scheme."""

    from PIL import Image, ImageDraw, ImageFont

    height = TITLE + TILE + LABEL
    result = Image.new("RGB", (TILE * max(len(scheme.colors) for scheme in schemes), height * len(schemes)), "white")
    draw, large, small = ImageDraw.Draw(result), ImageFont.load_default(18), ImageFont.load_default(13)
    for row, scheme in enumerate(schemes):
        top = row * height
        draw.text((6, top + 4), f"{scheme.name}, {scheme.era}" if scheme.era else scheme.name, "black", large)
        for i, (color, material) in enumerate(zip(scheme.colors, scheme.materials)):
            draw.rectangle((i * TILE, top + TITLE, (i + 1) * TILE - 3, top + TITLE + TILE - 1), color)
            lines = "\n".join(wrap(material, 18)[:2])
            draw.text((i * TILE + 4, top + TITLE + TILE + 2), lines, "black", small)
    return result
