"""The words of a prompt, as the text encoder parts them: letters, digits, and whatever stands between them."""

import re
import unicodedata
from functools import cache

from models.assess.confusable_letters import DIACRITICS, WHITE_ON_BLACK
from models.assess.strip_invisible_and_misplaced_combining_characters import (
    marks,
    numbers,
    without_invisible,
    without_marks_apart,
)

SIGNS = "@$!|+€¢¥"
"""Signs that stand for letters."""

_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts that put no spaces between words, so that they are words apart from those beside them."""

_ASCII_WORD = re.compile("[a-z]+|[0-9]+")
_BESIDE_SIGNS = re.compile(rf"[{re.escape(SIGNS)}]+")
_ASCII_PART = re.compile(rf"[a-z0-9{re.escape(SIGNS)}]+")


def normalized(text: str) -> str:
    """Return a text case-folded and NFKC-normalised, without invisible characters and marks that stand apart."""
    text = without_invisible(text)
    if text.isascii():
        return text.lower()
    joined = unicodedata.normalize("NFKC", without_marks_apart(text, "COMBINING"))
    folded = unicodedata.normalize("NFKC", without_marks_apart(joined).casefold())
    return without_marks_apart(DIACRITICS.sub("", folded.translate(WHITE_ON_BLACK)))


def words_of(text: str) -> list[str]:
    """Return a text's words, normalised, without punctuation; digits are words apart from letters beside them."""
    return words_in(normalized(text))


def words_in(normal: str) -> list[str]:
    """Return the words of a normalised text."""
    return word_pattern(normal).findall(normal)


def words_with_digits(normal: str) -> list[str]:
    """Return the words of a normalised text, with digits and letters beside each other as one."""
    return [
        word for part in part_pattern(normal).findall(normal) for word in _BESIDE_SIGNS.split(part) if word
    ]


def word_pattern(normal: str) -> re.Pattern[str]:
    """Return what matches each word of a normalised text."""
    return _ASCII_WORD if normal.isascii() else _patterns()[0]


def part_pattern(normal: str) -> re.Pattern[str]:
    """Return what matches each part of a normalised text: words, and signs that stand for letters, without a gap."""
    return _ASCII_PART if normal.isascii() else _patterns()[1]


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    # ASCII comes first, and apart, as the classes of all marks and numbers are slow.
    beyond = rf"(?=[^\x00-\x7f])(?![{_NO_SPACES}])"
    dense = rf"(?=[^\x00-\x7f])[{_NO_SPACES}]+"
    letters = rf"(?:[a-z]+|{beyond}(?:[^\W\d_{numbers()}]|[{marks()}]))+"
    digits = rf"(?:[0-9]|{beyond}\d)+"
    number = rf"{beyond}[{numbers()}]"
    signs = rf"[{re.escape(SIGNS)}]"
    return (
        re.compile(rf"{letters}|{digits}|{dense}|{number}"),
        re.compile(rf"(?:{letters}|{digits}|{number}|{signs})+|{dense}"),
    )
