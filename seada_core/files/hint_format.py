"""Colour hints as data: points and strokes on the photo; parsing of hints and palettes from text and JSON."""

from __future__ import annotations

import contextlib
import json
import re
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

MAX_BYTES = 16_000_000  # of a file
MAX_HINTS = 10_000  # entries of one list
MAX_STROKE_POINTS = 10_000  # of one stroke
MAX_POINTS = 100_000  # of all entries of one list
MAX_COORDINATE = 1_000_000  # of a stroke's points, px: their squares stay exact
MAX_COLOR = 60  # characters of a colour
KEEP = "keep"  # in place of a hint's colour: the place keeps what the model gives it
MOST_SPREAD = 1.0  # of a hint; the least is its negative
COLOR = r"#[0-9a-f]{3}|#[0-9a-f]{6}|[a-z]+|(?:rgb|hsl)\([\d\s.,%]+\)"
_COMMA = re.compile(r",(?![^()]*\))")  # one that is not part of a colour such as rgb(1, 2, 3)


def parse_color(text: str) -> tuple[float, float, float]:
    """A colour as CSS writes it, (r, g, b) in [0, 1]: "#rrggbb", "#rgb", "rgb(208, 160, 112)", "rgb(80% 60% 40%)",
    "hsl(30, 50%, 40%)", or one of CSS's names, such as "steelblue". Raises ValueError for anything else."""
    red, green, blue = _bytes_of(text)
    return red / 255, green / 255, blue / 255


def hex_color(text: str) -> str:
    """`parse_color`'s colour as "#rrggbb" in lower case. Raises ValueError where that does."""
    return "#{:02x}{:02x}{:02x}".format(*_bytes_of(text))


def _bytes_of(text: Any) -> tuple[int, int, int]:
    if isinstance(text, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    from PIL import ImageColor  # which knows CSS's names; imported here so that commands start quickly

    if isinstance(text, str) and len(text) <= MAX_COLOR and re.fullmatch(COLOR, text, re.IGNORECASE):
        color = re.sub(r"(?<=[\d%])[\s,]+(?=[\d.])", ",", text)  # CSS also separates by spaces alone
        with contextlib.suppress(ValueError):
            found = ImageColor.getrgb(color)
            if len(found) == 3 and max(found) <= 255:
                return found
    examples = "a CSS colour such as #d0a070, #da7, rgb(208, 160, 112) or steelblue"
    raise ValueError(f"bad colour {reprlib.repr(text)}: expected {examples}, without transparency")


@dataclass(frozen=True)
class Hint:
    """A colour at pixel (x, y) of the input photo, or in a disc of `radius` pixels around that pixel's centre.

    Coordinates count from the top left pixel, (0, 0). The colour `KEEP` is the one that the model gives the place.
    `spread` says how far the hint reaches beyond the disc: 0 as far as the thing there, from -1 (little) to 1 (far).
    Raises ValueError where `parse_color` does, for a coordinate that is not a finite number, for
    a radius that is negative or not finite, and for another spread.
    """

    x: float
    y: float
    color: str
    radius: float = 0
    spread: float = 0

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            _check_pixels(getattr(self, name), f"hint {name}")
        _check_look(self.color, self.radius, self.spread)


@dataclass(frozen=True)
class Stroke:
    """A colour within `radius` pixels of a line through pixels of the input photo, (x, y) as in `Hint`.

    With a radius of 0 it is just the line, with one point it equals a `Hint`. Points may lie outside the photo.
    Raises ValueError where `Hint` does, for no points, for more than MAX_STROKE_POINTS, and for points that are not
    pairs or have coordinates beyond MAX_COORDINATE.
    """

    points: tuple[tuple[float, float], ...]
    color: str
    radius: float = 0
    spread: float = 0

    def __post_init__(self) -> None:
        points: Any = self.points  # of any type, until it is checked
        if not isinstance(points, Sequence) or isinstance(points, str):
            raise ValueError(f"stroke points are {reprlib.repr(self.points)}: expected [[x, y], ...]")
        if not 0 < len(self.points) <= MAX_STROKE_POINTS:
            raise ValueError(f"a stroke of {len(self.points)} points: expected 1 to {MAX_STROKE_POINTS}")
        for number, point in enumerate(self.points, 1):
            if not isinstance(point, list | tuple) or len(point) != 2:
                raise ValueError(f"stroke point {number} is {reprlib.repr(point)}: expected [x, y]")
            for name, value in zip("xy", point):
                _check_pixels(value, f"stroke point {number}'s {name}", MAX_COORDINATE)
        _check_look(self.color, self.radius, self.spread)
        object.__setattr__(self, "points", tuple((x, y) for x, y in self.points))


def _check_pixels(value: Any, name: str, limit: float = sys.float_info.max) -> None:
    size: Any = float("inf") if isinstance(value, bool) or not isinstance(value, Real) else abs(value)
    if not size <= sys.float_info.max:
        raise ValueError(f"{name} is {reprlib.repr(value)}: expected a finite number of pixels")
    if size > limit:
        raise ValueError(f"{name} is {value}: expected at most {limit} pixels")


def _check_look(color: Any, radius: Any, spread: Any) -> None:
    _check_pixels(radius, "hint radius")
    if radius < 0:
        raise ValueError(f"hint radius is {radius}: expected 0 or more pixels")
    if isinstance(spread, bool) or not isinstance(spread, Real) or not abs(float(spread)) <= MOST_SPREAD:
        raise ValueError(f"hint spread is {reprlib.repr(spread)}: expected -1 (little) to 1 (far), usually 0")
    if color != KEEP:
        parse_color(color)


def parse_hint(text: str) -> Hint:
    """ "X,Y,COLOUR", "X,Y,COLOUR,RADIUS" or "X,Y,COLOUR,RADIUS,SPREAD" as a Hint, see `parse_color`; `KEEP` counts as
    a colour. Raises ValueError naming the text."""
    parts = [part.strip() for part in _COMMA.split(text)]
    if not 3 <= len(parts) <= 5:
        raise ValueError(f"bad hint {reprlib.repr(text)}: expected X,Y,COLOUR and, optionally, RADIUS and SPREAD")
    try:
        x, y, *more = (float(part) for part in (*parts[:2], *parts[3:]))
    except ValueError:
        problem = "X, Y, RADIUS and SPREAD must be numbers, as in 120,80,#d0a070,12"
        raise ValueError(f"bad hint {reprlib.repr(text)}: {problem}") from None
    try:
        return Hint(x, y, parts[2], *more)
    except ValueError as error:
        raise ValueError(f"bad hint {reprlib.repr(text)}: {error}") from None


def load_hints(path: str | Path) -> list[Hint | Stroke]:
    """Hints and strokes of a JSON file, as the painter writes it; see `parse_hints` for what it may hold.

    Raises ValueError naming the file, and the entry (counted from 1) that is wrong.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes; a hints file has at most {MAX_BYTES}")
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read hints from {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a hints file: {error}") from error
    return parse_hints_text(text, str(path), "a JSON file")


def parse_hints_text(text: str, source: str = "hints", kind: str = "JSON") -> list[Hint | Stroke]:
    """Hints and strokes of JSON text, see `parse_hints`. ValueError names `source`, and `kind` if it is not JSON."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not {kind}: {error}") from error
    return parse_hints(data, source)


def parse_hints(data: object, source: str = "hints") -> list[Hint | Stroke]:
    """Hints and strokes of parsed JSON: a list of entries, or {"hints": that list}.

    An entry is {"x": 12, "y": 30, "color": "#d0a070", "radius": 4} or {"points": [[12, 30], [40, 35]], "color": ...,
    "radius": ...}; `radius` and `spread` are optional, and the colour may be `KEEP`. Raises ValueError naming `source`
    and the entry (counted from 1) that is wrong, and for more than MAX_HINTS entries or MAX_POINTS points of all of
    them.
    """
    entries = data.get("hints") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise ValueError(f'{source}: expected {{"hints": [...]}} or a list of hints')
    if len(entries) > MAX_HINTS:
        raise ValueError(f"{source}: {len(entries)} hints; at most {MAX_HINTS} are taken")
    hints, points = [], 0
    for number, entry in enumerate(entries, 1):
        where = f"{source}, hint {number}"
        if not isinstance(entry, dict):
            raise ValueError(f'{where}: expected {{"x": .., "y": .., "color": "#d0a070"}}, got {reprlib.repr(entry)}')
        kind, place = (Stroke, ["points"]) if "points" in entry else (Hint, ["x", "y"])
        missing = {*place, "color"} - entry.keys()
        unknown = entry.keys() - {*place, "color", "radius", "spread"}
        if missing or unknown:
            problem = f"has no {min(missing)}" if missing else f"has an unknown field {reprlib.repr(min(unknown))}"
            raise ValueError(
                f"{where} {problem}; fields are {', '.join(place)}, color and, optionally, radius and spread"
            )
        try:
            hint = kind(**entry)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        hints.append(hint)
        points += len(hint.points) if isinstance(hint, Stroke) else 1
        if points > MAX_POINTS:
            raise ValueError(f"{where}: more than {MAX_POINTS} points in all")
    return hints


def parse_palette(text: str) -> list[str]:
    """Colours separated by commas, such as "#aabbcc, navy", as a list of "#rrggbb" in lower case, see `parse_color`.

    Raises ValueError if it is empty or a colour is bad.
    """
    if not text.strip():
        raise ValueError("the palette is empty: expected colours such as #aabbcc,#ddeeff")
    return [hex_color(part.strip()) for part in _COMMA.split(text)]
