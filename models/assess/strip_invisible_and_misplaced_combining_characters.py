"""Marks and invisible characters in a text: those that belong to its letters, and those that only part them."""

import re
import unicodedata
from functools import cache
from itertools import groupby

from models.assess.confusable_letters import script_of

_CONTROLS = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
_IGNORABLE = (
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff"
)
"""Characters that fonts show as nothing, though they are letters or marks, or aren't assigned."""

_CONTROL = re.compile(f"[{_CONTROLS}]")

_POINTED = {"ARABIC", "HEBREW"}
"""Scripts whose marks are left out in most texts, so that a word is the same with them and without."""

_MOST_ON_A_LETTER = 16


def without_invisible(text: str) -> str:
    """Return a text without controls other than white space, format characters, and others that are never seen."""
    if text.isascii():
        return text if text.isprintable() else _CONTROL.sub("", text)
    return _invisible().sub("", text)


def without_marks_apart(text: str, kept_script: str = "") -> str:
    """Return a text with no marks but those of the script of the letter on which they stand, as in Hindi and Thai.

    With `kept_script`, those whose names begin with this word are kept as well, and so are points of Arabic and Hebrew:
    normalisation may join them with their letters. No letter keeps more than 16 marks.
    """
    if text.isascii() or not _mark().search(text):
        return text
    kept: list[str] = []
    script = ""
    for are_marks, group in groupby(text, _is_mark):
        signs = list(group)
        if are_marks:
            scripts = {kept_script, script} if kept_script else {script} - _POINTED
            kept += [mark for mark in signs[:_MOST_ON_A_LETTER] if script_of(mark) in scripts]
        else:
            kept += signs
            script = script_of(signs[-1])
    return "".join(kept)


def _is_mark(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "M"


@cache
def _mark() -> re.Pattern[str]:
    return re.compile(rf"[^\x00-\u02ff](?<=[{marks()}\U000e0100-\U000e01ef])")


@cache
def _invisible() -> re.Pattern[str]:
    return re.compile(f"[{_CONTROLS}{_IGNORABLE}{_in_categories('Cf')}]")


def marks() -> str:
    """Return all marks that letters have (category M), as ranges for a regular expression's class."""
    return _in_categories("Mn", "Mc", "Me")


def numbers() -> str:
    """Return all numbers that aren't decimal digits, as ranges for a regular expression's class."""
    return _in_categories("Nl", "No")


@cache
def _in_categories(*categories: str) -> str:
    codes = [code for category in categories for code in _codes().get(category, ())]
    spans = [list(group) for _, group in groupby(enumerate(sorted(codes)), lambda each: each[1] - each[0])]
    return "".join(f"{chr(span[0][1])}-{chr(span[-1][1])}" for span in spans)


@cache
def _codes() -> dict[str, list[int]]:
    """Return the characters of each category up to U+1FFFF; above are none but ideographs, and what is invisible."""
    found: dict[str, list[int]] = {}
    for code in range(0x80, 0x20000):
        found.setdefault(unicodedata.category(chr(code)), []).append(code)
    return {category: codes for category, codes in found.items() if category[0] in "MN" or category == "Cf"}
