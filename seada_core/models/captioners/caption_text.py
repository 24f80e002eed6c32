"""Removes phrases from captions that would tell a colouriser to keep the photo grey."""

from __future__ import annotations

import re

_BLACK_AND_WHITE = (
    r"(?:\b(?:black(?:\s*(?:-\s*)?and\s*(?:-\s*)?|\s*[&/-]\s*)white|white\s+and\s+black|b\s?[&/]\s?w)\b"
    r"(?:[ -]colou?red\b)?)"
)
_TONELESS = r"(?:\b(?:monochrom(?:e|atic)|gr[ae]y[ -]?scaled?|sepia(?:[ -](?:toned?|tinted|colou?red))?|colou?rless)\b)"
_NO_COLOR = rf"(?:{_BLACK_AND_WHITE}|{_TONELESS})(?:[\s,]+(?:{_BLACK_AND_WHITE}|{_TONELESS}))*"
_ADJECTIVE = (
    r"(?:(?:vintage|old|older|antique|historic(?:al)?|archival|retro|classic|aged|faded|grainy|blurry|close[- ]?up"
    r"|aerial|wide|panoramic|overhead|high[- ]contrast|low[- ]angle|group|family|wedding|school|street|studio|stock"
    r"|press|abstract|artistic|beautiful|dramatic|stylized|very)\b)"
)
_MEDIUM = (
    r"(?:(?:photo(?:s|graphs?|graphy)?|pictures?|pics?|images?|snapshots?|shots?|portraits?|footage|close[- ]?up|views?"
    r"|scenes?|film still|silhouette|drawings?|illustrations?|paintings?|sketch|engraving|etching|rendering)\b"
    r"(?![ -](?:frames?|albums?|books?|booth|walls?|display|camera|case|collage|print|poster"
    r"|window|on (?:a|the) wall)))"
)
_STYLE = r"(?:[ -](?:photo(?:graph(?:s|y)?|s)?|pictures?|images?|film|style|tones?|filter|effect|format|version)\b)?"
_DETERMINER = r"(?:(?:an?|the|this|these|some|two|three|several|one|my|his|her|their)\b)"
# where a caption, or a clause of it, starts to describe the picture
_HEAD = rf"(?:(?:^|[.;:,(]|\b(?:is|are|was|it's|there's|in|as)\b)\s*(?:(?:{_DETERMINER}|{_ADJECTIVE})[\s,]+)*)"
_STOP = r"(?=\s*(?:$|[.,;:)]))"
_PLACE = r"(?=\s+(?:of|on|with|at|by|from|near|over|under|during|behind|beside|next)\b)"
_SHOWN = r"\b(?:shown|taken|shot|photographed|pictured|captured|filmed|rendered|depicted)\s+"
_COVERED = (
    r"\b(?:dressed|clad|attired|clothed|painted|decorated|covered|wrapped|striped|tiled|uniforms?|outfits?|clothes"
    r"|clothing|dress|dresses|suits?|shirts?|gear|attire|costumes?|stripes)\s+(?:all\s+)?$"
)
_PERSON = (
    r"\b(?:m[ae]n|wom[ae]n|boys?|girls?|child(?:ren)?|kids?|person|people|lad(?:y|ies)|couple|guys?|players?|team"
    r"|referees?|officers?|nuns?|nurses?|waiters?|waitress|maids?|bride|groom|someone|bab(?:y|ies)|dancers?|riders?"
    r"|skaters?|clowns?)\s+(?:all\s+)?$"
)
_GONE = "\0"  # marks a removed phrase, so that only the words around it are repaired


def strip_monochrome(text: str) -> str:
    """`text` without the phrases that describe the photo as black and white: "a photo of a dog".

    "black and white" is removed where it qualifies the picture itself ("a black and white photo of ..."),
    follows "in", or is a clause of its own. It stays with things that are black and white: a cat, a striped shirt, a
    man dressed in black and white. "monochrome", "grayscale" and "sepia" are removed before any noun.
    """

    def without_in(match: re.Match) -> str:
        before = match.string[: match.start("in")]
        if match["shown"]:
            return _GONE
        of_a_picture = re.match(rf"\W*(?:{_DETERMINER}\s+)?(?:{_ADJECTIVE}\s+)*{_MEDIUM}", before, re.IGNORECASE)
        if re.search(_COVERED, before, re.IGNORECASE):
            return match[0]
        if not of_a_picture and (match["place"] is not None or re.search(_PERSON, before, re.IGNORECASE)):
            return match[0]
        return _GONE

    rules = (
        # "..., black and white", "black and white, ...", "(black and white photo)"
        (rf"(?P<before>(?:^|[,;:(.])\s*){_NO_COLOR}{_STYLE}(?=\s*[,;:)])", rf"\g<before>{_GONE}"),
        (rf"(?P<before>[,;:(.]\s*){_NO_COLOR}{_STYLE}{_STOP}", rf"\g<before>{_GONE}"),
        (rf"^\W*{_NO_COLOR}\W*$", _GONE),
        # "the photo is black and white"
        (
            rf"(?P<before>^|[.;,]\s*|\s+and\s+)(?:the|this)\s+{_MEDIUM}\s+(?:is|was|are)\s+(?:all\s+)?(?:in\s+)?{_NO_COLOR}{_STOP}",
            _GONE,
        ),
        # "a black and white old photo of", "this is a black and white photo"
        (
            rf"(?P<before>{_HEAD}){_NO_COLOR}[\s,]+(?=(?:{_ADJECTIVE}[\s,]+)*{_MEDIUM})",
            lambda match: re.sub(r"(?<=\w),(?=\s*$)", "", match["before"]) + _GONE,
        ),
        # "a street in black and white", "a street shown in black and white"
        (
            rf"(?P<shown>{_SHOWN})?(?P<in>\bin\s+(?:an?\s+)?){_NO_COLOR}{_STYLE}(?:{_STOP}|(?P<place>{_PLACE}))",
            without_in,
        ),
        (rf"{_TONELESS}\s+(?=\w)(?!(?:monitor|screen|display|television|tv)\b)", _GONE),
    )
    result = text
    for pattern, replacement in rules:
        result = re.sub(pattern, replacement, result, flags=re.IGNORECASE)
    if result == text:
        return text

    def article(match: re.Match) -> str:
        return f"{match[1]}n " if match[2].lower() in "aeiou" else f"{match[1]} "

    result = re.sub(rf"\b(a)n?\s+(?:{_GONE}\s*)+(?=(\w))", article, result, flags=re.IGNORECASE).replace(_GONE, "")
    result = re.sub(r"\(\s*\)", "", result)
    result = re.sub(r"\s*([,;:.])(?:\s*[,;:])+", r"\1", re.sub(r"\s+", " ", result))
    result = re.sub(r"\s+(?=[,;:.)])|^[\s,;:.]+|[\s,;:]+$", "", result)
    return result[:1].upper() + result[1:] if text[:1].isupper() else result


_TEMPLATE = re.compile(r"a photo(?: of .*)?|", re.IGNORECASE)


def name_thing(caption: str, thing: str) -> str:
    """A caption that names a thing: "a photo of a cat" becomes "a photo of a tabby cat", and a sentence gets the name
    behind it, if it does not have it already."""
    if thing.lower() in caption.lower():
        return caption
    return f"a photo of {with_article(thing)}" if _TEMPLATE.fullmatch(caption.strip()) else f"{caption}, {thing}"


def with_article(thing: str) -> str:
    """The name of a thing with "a" or "an", plurals as they are."""
    if re.search(r"(?<![aious])s$", thing):
        return thing
    return f"an {thing}" if thing[:1].lower() in "aeiou" else f"a {thing}"
