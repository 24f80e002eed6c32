"""Hints, strokes and palettes as text and JSON."""

import json
import math

import pytest

from seada_core.files.hint_format import (
    KEEP,
    Hint,
    Stroke,
    hex_color,
    load_hints,
    parse_color,
    parse_hint,
    parse_hints,
    parse_palette,
)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1, 2, "reddish"), "bad colour 'reddish'"),
        ((1, 2, "#12345"), "bad colour"),
        ((1, 2, "#1234567"), "bad colour"),
        ((1, 2, "#12345g"), "bad colour"),
        ((1, 2, "#123456\n"), "bad colour"),
        ((1, 2, None), "bad colour"),
        ((math.nan, 2, "#123456"), "hint x is nan"),
        ((1, math.inf, "#123456"), "hint y is inf"),
        ((1, 2, "#123456", -math.inf), "hint radius is -inf"),
        ((1, 10**400, "#123456"), "hint y is 1000"),
        ((True, 2, "#123456"), "hint x is True"),
        (("1", 2, "#123456"), "hint x is '1'"),
        ((1, 2, "#123456", -1), "hint radius is -1"),
        ((1, 2, "#123456", 0, 1.5), "hint spread is 1.5: expected -1"),
        ((1, 2, "#123456", 0, math.nan), "hint spread is nan"),
        ((1, 2, "#123456", 0, "0"), "hint spread is '0'"),
        ((1, 2, "keeps"), "bad colour 'keeps'"),
    ],
)
def test_a_malformed_hint_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hint(*arguments)


def test_parse_hint():
    assert parse_hint("12, 30.5,#A0b1C2") == Hint(12, 30.5, "#A0b1C2", 0)
    assert parse_hint("12,30,#a0b1c2,7.5") == Hint(12, 30, "#a0b1c2", 7.5)
    assert parse_hint("12,30,rgb(1, 2, 3),7.5,-0.4") == Hint(12, 30, "rgb(1, 2, 3)", 7.5, -0.4)
    assert parse_hint("12,30,keep,3") == Hint(12, 30, KEEP, 3)


@pytest.mark.parametrize(
    "text",
    ["", "1,2", "1,2,#aabbcc,3,4", "1,2,#aabbcc,3,0,5", "a,2,#aabbcc", "1,2,aabbcc", "1,2,#aabbcc,-3", "nan,2,#aabbcc"],
)
def test_a_malformed_hint_text_is_named(text):
    with pytest.raises(ValueError) as error:
        parse_hint(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_load_hints(tmp_path):
    entries = [{"x": 1, "y": 2.5, "color": "#aabbcc"}, {"x": 3, "y": 4, "color": "#010203", "radius": 5}]
    kept = parse_hints([{"points": [[1, 2]], "color": "keep", "spread": -0.5}])
    assert kept == [Stroke(((1, 2),), KEEP, 0, -0.5)]
    for data in (entries, {"hints": entries}):
        (tmp_path / "hints.json").write_text(json.dumps(data))
        assert load_hints(tmp_path / "hints.json") == [Hint(1, 2.5, "#aabbcc"), Hint(3, 4, "#010203", 5)]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a JSON file"),
        ("1" * 5000, "not a JSON file|expected"),
        ("3", "list of hints"),
        ('{"points": []}', "list of hints"),
        ('[{"x": 1, "y": 2, "color": "#aabbcc"}, 7]', "hint 2.*got 7"),
        ('[{"x": 1, "color": "#aabbcc"}]', "hint 1 has no y"),
        ('[{"x": 1, "y": 2, "color": "#aabbcc", "colour": 1}]', "hint 1 has an unknown field 'colour'"),
        ('[{"x": 1, "y": 2, "color": "#aabbcc", "__proto__": {}}]', "hint 1 has an unknown field '__proto__'"),
        ('[{"points": [[1, 2]], "x": 1, "color": "#aabbcc"}]', "hint 1 has an unknown field 'x'"),
        ('[{"points": [[1, 2]]}]', "hint 1 has no color; fields are points, color"),
        ('[{"points": [], "color": "#aabbcc"}]', "hint 1: a stroke of 0 points"),
        ('[{"points": "12", "color": "#aabbcc"}]', "hint 1: stroke points are '12'"),
        ('[{"points": [[1, 2], [3]], "color": "#aabbcc"}]', r"hint 1: stroke point 2 is \[3\]: expected \[x, y\]"),
        ('[{"points": [[1, "2"]], "color": "#aabbcc"}]', "hint 1: stroke point 1's y is '2'"),
        ('[{"points": [[1, 1e7]], "color": "#aabbcc"}]', "at most 1000000 pixels"),
        ("[" * 100000, "not a JSON file"),
        ('[{"x": 1e999, "y": 2, "color": "#aabbcc"}]', "hint 1: hint x is inf"),
        ('[{"x": 1, "y": 2, "color": "bleu"}]', "hint 1: bad colour 'bleu'"),
    ],
)
def test_a_malformed_hints_file_is_named_with_its_entry(tmp_path, content, message):
    path = tmp_path / "clicks.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_hints(path)
    assert "clicks.json" in str(error.value)


def test_a_missing_hints_file(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read hints from .*nothing\.json"):
        load_hints(tmp_path / "nothing.json")


def test_parse_palette():
    assert parse_palette("#AABBCC, #ddeeff") == ["#aabbcc", "#ddeeff"]
    assert parse_palette("teal,#fc0, rgb(1, 2, 3) ,Hsl(0, 100%, 50%)") == ["#008080", "#ffcc00", "#010203", "#ff0000"]
    for text in ("", "  ", "#aabbcc,", "reddish", "rgb(1,2)", "rgb(1, 2, 300)", "#12345678", "red" * 50):
        with pytest.raises(ValueError, match=r"palette is empty|bad colour"):
            parse_palette(text)


COLORS = {  # by the CSS Color Module, levels 3 and 4
    "#d0a070": "#d0a070",
    "#DA7": "#ddaa77",
    "rgb(208, 160, 112)": "#d0a070",
    "RGB(208 160 112)": "#d0a070",
    "rgb(100%, 50%, 0%)": "#ff8000",
    "hsl(120, 100%, 25%)": "#008000",
    "SteelBlue": "#4682b4",
    "rebeccapurple": "#663399",
}


@pytest.mark.parametrize("text", COLORS)
def test_colours_as_css_writes_them(text):
    assert hex_color(text) == COLORS[text]
    assert parse_color(text) == pytest.approx([int(COLORS[text][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    hint = parse_hint(f"3,4,{text},5")
    assert (hint.x, hint.y, parse_color(hint.color), hint.radius) == (3, 4, parse_color(text), 5)
    assert parse_palette(f"navy,{text}, #010203") == ["#000080", COLORS[text], "#010203"]


BAD = ["", "#ab", "#abcd", "#aabbccdd", "rgb(256,0,0)", "rgb(1,2)", "rgba(1,2,3,4)", "reddish", "rgb(1,2,3", 7]


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_a_colour_is_named(text):
    with pytest.raises(ValueError, match=r"^bad colour .*: expected a CSS colour such as #d0a070"):
        parse_color(text)


def test_a_file_holds_strokes_too(tmp_path):
    stroke = {"points": [[1, 2], [3.5, -4]], "color": "#aabbcc", "radius": 2}
    (tmp_path / "hints.json").write_text(json.dumps([stroke, {"x": 1, "y": 2, "color": "#010203"}]))
    expected = [Stroke(((1, 2), (3.5, -4)), "#aabbcc", 2), Hint(1, 2, "#010203")]
    assert load_hints(tmp_path / "hints.json") == expected
    assert hash(expected[0]) == hash(Stroke([[1, 2], [3.5, -4]], "#aabbcc", 2))


def test_too_many_hints_and_points_are_refused():
    hint = {"x": 1, "y": 2, "color": "#aabbcc"}
    assert len(parse_hints([hint] * 10_000)) == 10_000
    with pytest.raises(ValueError, match="10001 hints; at most 10000"):
        parse_hints([hint] * 10_001)
    stroke = {"points": [[1, 2]] * 10_000, "color": "#aabbcc"}
    assert len(parse_hints([stroke] * 10)) == 10
    with pytest.raises(ValueError, match="hint 11: more than 100000 points in all"):
        parse_hints([stroke] * 10 + [hint])
    with pytest.raises(ValueError, match="10001 points: expected 1 to 10000"):
        Stroke([(1, 2)] * 10_001, "#aabbcc")
