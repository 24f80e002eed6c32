"""Finds coloured things in a prompt: "a yellow fire hydrant on a green lawn" has two things with a colour each.

`grounding` locates them in the photo.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..color.purple import purple
from ..color.spaces import luminance, rgb_to_ycbcr
from ..files.hint_format import parse_color
from ..models.captioners.caption_text import strip_monochrome

# the colour of each word at its brightest in photos: closer to paint and cloth than to a screen's primaries
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
# How much of that chroma things have. In 1,800 training photos, areas that `train.color_captions` calls so have 0.6 to
# 0.9 of it after no such word, 1.0 to 1.4 after "bright" and 0.2 to 0.4 after "pale".
STRENGTH = 0.75
STRENGTHS = {
    **dict.fromkeys(("bright", "vivid", "deep", "rich"), 1.0),
    **dict.fromkeys(("pale", "light", "soft", "muted", "faded", "dusty", "pastel"), 0.4),
}
_SHADE = rf"(?:(?:dark|{'|'.join(STRENGTHS)})[ -]){{0,3}}"
_WORD = rf"(?:{'|'.join(sorted(COLORS, key=len, reverse=True))})(?:-colou?red)?(?!\w)"
# "red, white and blue", "navy blue" and "blue-green" count as their first colour
_MORE = rf"(?:(?:, {_SHADE}{_WORD}){{0,4}},? (?:and|or|&) {_SHADE}{_WORD}|[ /-]{_SHADE}{_WORD}){{0,4}}"
_BREAK = r",.;:!?()\[\]{}\"“”"  # ends a clause
_MAX_WORDS = 3  # of a thing's name
_COLORED = re.compile(
    rf"(?<![\w-])(?P<shade>{_SHADE})(?P<color>{_WORD}){_MORE}(?P<attached>-\w+)?"
    rf"(?=(?P<rest>(?: [^\s{_BREAK}]+){{0,{_MAX_WORDS}}}))"
)
_ATTACHED = {"eyed": "eyes", "haired": "hair", "bearded": "beard", "skinned": "skin", "faced": "face"}  # "blue-eyed"
# "the car is red", "a door that was painted a deep blue"
_VERBS = frozenset(re.findall(r"\w+", "is are was were painted colored coloured dyed"))
_LINKS = _VERBS | frozenset(re.findall(r"\w+", "a an all also be been being both has have mostly that very which who"))
# words that end a thing's name
_STOP = frozenset(
    re.findall(
        r"\w+",
        """a an the and or but with without of on in at by near under over beside behind above below between from to
        into onto against along around across through for past inside outside off up down out toward towards next atop
        among amid before after during like than then is are was were be been being has have had do does not no very
        that which who whose what where when while as it its he she they his her their my our your i we you there this
        these those some all both each wearing parked seated worn""",
    )
) | set(COLORS)
# words in -ing that are things, not actions
_THINGS_ING = frozenset(
    re.findall(
        r"\w+",
        """awning bowling building ceiling clothing crossing dressing dumpling duckling earring icing king lightning
        lining painting paving piping railing ring roofing seating siding sling spring stocking string swing thing
        tubing wing wiring wrapping""",
    )
)
_MAX_TEXT = 2000  # characters, beyond the length of any text encoder
_MAX_PHRASES = 20


@dataclass(frozen=True)
class ColorPhrase:
    """A thing and its colour: `thing` as in the prompt, `word` the colour word, `color` "#rrggbb", see `typical`."""

    thing: str
    word: str
    color: str


def typical(word: str, shade: str = "") -> str:
    """The colour "#rrggbb" that things have which are called by a word of `COLORS`, after words such as "pale" or
    "bright": that of `COLORS` with less of its chroma, see `STRENGTHS`. The last of several words counts."""
    strengths = [STRENGTHS[name] for name in re.findall("[a-z]+", shade) if name in STRENGTHS]
    strength = strengths[-1] if strengths else STRENGTH
    color = torch.tensor(parse_color(COLORS[word])).view(3, 1, 1)
    luma = luminance(color)
    red, green, blue = (255 * (luma + strength * (color - luma))).round().int().flatten().tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def _plain(prompt: str) -> str:
    """The start of a prompt in small letters, with single spaces, and without words such as "black and white"."""
    return strip_monochrome(" ".join(prompt[:_MAX_TEXT].replace("_", " ").split())).lower()


def names_purple(prompt: str) -> bool:
    """Whether a prompt has a word for a purple, of anything."""
    words = re.findall(rf"(?<![\w-]){_WORD}", _plain(prompt))
    colors = [torch.tensor(parse_color(COLORS[re.sub("-colou?red$", "", word)])).view(1, 3, 1, 1) for word in words]
    chroma = [rgb_to_ycbcr(color)[:, 1:] for color in colors]
    return any((purple(c) * c.norm()).item() > 0.03 for c in chroma)  # greys have any hue


def color_phrases(prompt: str) -> list[ColorPhrase]:
    """The things that have a colour in a prompt, in its order; each thing once, with its first colour.

    The colour word may precede the thing ("a dark green vintage car", "red and white awning": red) or follow it ("the
    car is red", "lips painted red"). A colour word that is itself the thing ("an orange on a table", "the colour
    green") is not a phrase. At most the first 2,000 characters and 20 things are read.
    """
    things: dict[str, ColorPhrase] = {}
    text = _plain(prompt)
    for match in _COLORED.finditer(text):
        attached = (match["attached"] or "").removeprefix("-")  # "red-brick house"
        thing = _ATTACHED.get(attached) or _name([attached] * bool(attached) + match["rest"].split())
        thing = thing or _name_before(text[: match.start()])
        word = re.sub("-colou?red$", "", match["color"])
        if thing:
            things.setdefault(thing, ColorPhrase(thing, word, typical(word, match["shade"])))
    return list(things.values())[:_MAX_PHRASES]


_BLENDS = frozenset(  # colours between two, which people name by both
    map(frozenset, (("blue", "green"), ("yellow", "green"), ("orange", "red"), ("red", "purple"), ("pink", "purple")))
)
_APART = 75  # degrees of hue from which two colours of one thing contradict each other
_GRAYS = {"black": 0, "gray": 1, "grey": 1, "silver": 1, "white": 2}


def contradictions(prompt: str) -> list[tuple[str, str, str]]:
    """(thing, colour that counts, colour that contradicts it) of things that a prompt gives two colours: "a red blue
    car", or "a red car. The car is blue". Pairs that name a blend ("blue-green") or a pattern ("red and white") are
    none.
    """
    text = _plain(prompt)
    colors: dict[str, list[str]] = {}
    for match in _COLORED.finditer(text):
        attached = (match["attached"] or "").removeprefix("-")
        thing = _ATTACHED.get(attached) or _name([attached] * bool(attached) + match["rest"].split())
        thing = thing or _name_before(text[: match.start()])
        # of a pattern, such as "red and white", the first colour alone
        first = re.split(r",| and | or | & |/", match[0].removesuffix(match["rest"]))[0]
        words = re.findall(rf"(?<![\w-]){_WORD}", first)
        colors.setdefault(thing, []).extend(re.sub("-colou?red$", "", word) for word in words)
    found = []
    for thing, words in colors.items():
        other = next((word for word in words[1:] if _contradict(words[0], word)), None)
        if thing and other is not None:
            found.append((thing, words[0], other))
    return found


def _contradict(one: str, other: str) -> bool:
    if one in _GRAYS or other in _GRAYS:
        return one in _GRAYS and other in _GRAYS and _GRAYS[one] != _GRAYS[other]
    if frozenset((one, other)) in _BLENDS:
        return False
    hues = [colorsys.rgb_to_hsv(*parse_color(COLORS[word]))[0] * 360 for word in (one, other)]
    return 180 - abs(180 - abs(hues[0] - hues[1]) % 360) > _APART


def without_colors(prompt: str, phrases: Iterable[ColorPhrase]) -> str:
    """The prompt without the colour words in front of some of its things: "a fire hydrant on a lawn".

    When a thing's colour is given as a hint, the same word in the text would tint the whole photo.
    """
    for phrase in phrases:
        colors = rf"(?<![\w-]){_SHADE}{_WORD}{_MORE}\s+(?={re.escape(phrase.thing)}(?!\w))"
        prompt = re.sub(colors, "", prompt, flags=re.IGNORECASE)
    return prompt


def _name(words: list[str]) -> str:
    """The name of the thing at the start of a list of words."""
    name: list[str] = []
    for word in words[:_MAX_WORDS]:
        doing = name and word.endswith("ing") and word not in _THINGS_ING  # "a car driving by"
        if word in _STOP or doing or not re.search("[a-z]", word):
            break
        name.append(word)
    return " ".join(name)


def _name_before(text: str) -> str:
    """The thing that the end of a text describes, as in "the car is" before a colour word."""
    words, linked = re.split(f"[{_BREAK}]", text)[-1].split(), False
    while words and words[-1] in _LINKS:
        linked |= words.pop() in _VERBS
    name: list[str] = []
    for word in reversed(words if linked else []):
        if word in _STOP or len(name) == _MAX_WORDS or not re.search("[a-z]", word):
            break
        name.insert(0, word)
    return " ".join(name)
