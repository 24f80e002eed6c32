"""Colours in words: "a yellow fire hydrant on a green lawn" is two things and the colour of each.

Where a thing lies in the photo is for `regions` to find.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .caption_text import strip_monochrome

# what people mean by a colour word on a thing in a photo: nearer to paint and cloth than to a screen's primaries
COLORS = {
    "red": "#b8302c",
    "crimson": "#a8203a",
    "scarlet": "#c63222",
    "maroon": "#6e2226",
    "burgundy": "#6a1f33",
    "pink": "#dc8fa6",
    "orange": "#dd7a24",
    "peach": "#e8b08c",
    "brown": "#7a4e2c",
    "tan": "#b8946a",
    "beige": "#cdb892",
    "cream": "#e6dab6",
    "khaki": "#9c8c5c",
    "yellow": "#dcb92c",
    "gold": "#bf9530",
    "golden": "#c59a38",
    "blond": "#cfae6c",
    "blonde": "#cfae6c",
    "green": "#4d8a3a",
    "olive": "#70702c",
    "lime": "#8abe3a",
    "emerald": "#2a8a5c",
    "teal": "#1f7f80",
    "turquoise": "#34a8a4",
    "cyan": "#38a8bc",
    "blue": "#3565a8",
    "navy": "#24365e",
    "azure": "#4a90d0",
    "indigo": "#3c3a86",
    "violet": "#6e4a9e",
    "purple": "#7b3594",
    "lavender": "#a498cc",
    "lilac": "#b49ac6",
    "magenta": "#b03a86",
    "gray": "#808080",
    "grey": "#808080",
    "silver": "#a8a8a8",
    "white": "#f0f0f0",
    "black": "#181818",
}
_SHADE = r"(?:(?:light|dark|bright|deep|pale|vivid|soft|rich|muted|faded|dusty|pastel)[ -]+)"
_WORD = rf"(?:{'|'.join(sorted(COLORS, key=len, reverse=True))})(?:-colou?red)?(?!\w)"
_MORE = rf"(?:(?:\s*(?:,|and|&|or)\s+|-){_SHADE}*{_WORD})"  # "red and white": the first counts
_BEFORE = re.compile(rf"(?<![\w-]){_SHADE}*(?P<color>{_WORD}){_MORE}*(?=(?P<rest>[^,.;:!?]*))")
_AFTER = re.compile(r"(?P<rest>[^,.;:!?]*?)\s+(?:is|are|was|were|painted|colou?red|dyed)\s+(?:all\s+)?$")
# words that a thing's name does not run across
_STOP = frozenset(
    re.findall(
        r"\w+",
        """a an the and or but with without of on in at by near under over beside behind above below between from to
        into onto against along around across through for is are was were be being that which who whose while as it its
        his her their my our your there this these those some wearing holding sitting standing lying parked hanging""",
    )
) | set(COLORS)
_MAX_WORDS = 3  # of a thing's name


@dataclass(frozen=True)
class ColorPhrase:
    """A thing and its colour: `thing` as the prompt names it, `word` the colour's, `color` "#rrggbb"."""

    thing: str
    word: str
    color: str


def color_phrases(prompt: str) -> list[ColorPhrase]:
    """The things that a prompt gives a colour, in its order; each thing once, with its first colour.

    A colour word before a thing ("a dark green vintage car", "red and white awning": red), or after it ("the car is
    red", "lips painted red"). A colour word that is itself the thing ("an orange on a table", "the colour green") gives
    none, and neither do plain captions.
    """
    things: dict[str, ColorPhrase] = {}
    text = strip_monochrome(prompt).lower()
    for match in _BEFORE.finditer(text):
        thing = _name(match["rest"].split())
        if not thing:  # "the car is red"
            before = _AFTER.search(text[: match.start()])
            thing = _name(before["rest"].split(), last=True) if before else ""
        word = re.sub("-colou?red$", "", match["color"])
        if thing:
            things.setdefault(thing, ColorPhrase(thing, word, COLORS[word]))
    return list(things.values())


def without_colors(prompt: str, phrases: Iterable[ColorPhrase]) -> str:
    """The prompt without the colour words in front of some of its things: "a fire hydrant on a lawn".

    Where a thing has its colour as a hint, the same word in the text would tint the whole photo.
    """
    for phrase in phrases:
        colors = rf"(?<![\w-]){_SHADE}*{_WORD}{_MORE}*\s+(?={re.escape(phrase.thing)}(?!\w))"
        prompt = re.sub(colors, "", prompt, flags=re.IGNORECASE)
    return prompt


def _name(words: list[str], last: bool = False) -> str:
    """The words of a thing's name that a list starts with, or ends with."""
    name: list[str] = []
    for word in reversed(words) if last else words:
        if word in _STOP or not re.search("[a-z]", word):
            break
        name.append(word)
    name = name[:_MAX_WORDS]
    return " ".join(reversed(name) if last else name)
