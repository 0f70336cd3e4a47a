"""Letters that look like Latin ones, by Unicode's table of confusable characters and its names of characters."""

import re
import unicodedata
from functools import cache
from importlib.resources import files

import orjson

DIACRITICS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Combining marks that belong to no script, so that they can stand on any letter."""

WHITE_ON_BLACK = {
    first + number: chr(ord("a") + number) for first in (0x1F150, 0x1F170) for number in range(26)
}
"""Letters in black circles and squares, which NFKC doesn't know as letters, for `str.translate`."""

LATIN = "LATIN"

BESIDE_LATIN = {"п": "n", "и": "nu", "я": "r", "ш": "w", "э": "e"}
"""Cyrillic letters that only readers take for Latin ones: read so in words that have Latin letters, too."""

_LATIN_NAME = re.compile(r"LATIN .*?LETTER (?:SMALL CAPITAL )?([A-Z])(?: WITH .*)?")


@cache
def latin_letters(sign: str) -> tuple[str, ...]:
    """Return the letters a to z that a case-folded character may be read as; none if it looks like none of them.

    Letters with diacritics and small capitals are read by the names of their characters, those of other scripts as
    what they, or their capitals, are confusable with in Unicode's table.
    """
    if sign.isascii():
        return (sign.lower(),) if sign.isalpha() else ()
    if named := _LATIN_NAME.fullmatch(unicodedata.name(sign, "")):
        return (named[1].lower(),)
    return tuple(sorted(_confusables().get(sign, ())))


@cache
def script_of(sign: str) -> str:
    """Return the script of a letter, by the first word of its name."""
    return unicodedata.name(sign, "").partition(" ")[0] if not sign.isascii() else LATIN


@cache
def _confusables() -> dict[str, set[str]]:
    """Return the letters a to z that case-folded characters, or their capitals, are confusable with (UTS 39)."""
    table = orjson.loads((files("confusable_homoglyphs") / "confusables.json").read_bytes())
    found: dict[str, set[str]] = {}
    for sign, alike in table.items():
        plain = {DIACRITICS.sub("", each["c"]).lower() for each in alike} if not sign.isascii() else set()
        if letters := {text for text in plain if len(text) == 1 and "a" <= text <= "z"}:
            found.setdefault(unicodedata.normalize("NFKC", sign).casefold(), set()).update(letters)
    return found
