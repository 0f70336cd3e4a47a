"""What a reader takes a word for that is spelt to get past a filter."""

import re
from collections.abc import Set
from itertools import groupby, islice, product

from models.assess.confusable_letters import BESIDE_LATIN, LATIN, latin_letters, script_of
from models.assess.prompt_words import SIGNS

# What stands for a letter.
_LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "|": "il", "+": "t", "€": "e", "¢": "c", "¥": "y",
}  # fmt: skip

_LONG_RUN = re.compile(r"(.)\1{2,}")
REPEATED = re.compile(r"([a-z])\1\1|([ahijquvwxy])\2")
"""Repeats that English has in hardly any word: three of a letter, and two of these."""

_MOST_READINGS = 64
LONGEST = 40
SHORTEST = 3

_SUSPICIOUS = re.compile(
    rf"[^\x00-\x7f]|[a-z][0-9{re.escape(SIGNS)}]|[0-9{re.escape(SIGNS)}][a-z]|[a-z][.\-_*~][a-z]|{REPEATED.pattern}"
    r"|(?<![a-z])[a-z][^a-z]+[a-z][^a-z]+[a-z](?![a-z])"
)


def may_be_disguised(normal: str) -> bool:
    """Return whether any word of a normalised text might be read in another way than it stands."""
    return _SUSPICIOUS.search(normal) is not None


def skeletons(word: str) -> set[str]:
    """Return what a word of the list looks like, letter by letter: Latin letters where they look like some."""
    if word.isascii():
        return {word}
    options = [latin_letters(sign) or (sign,) for sign in word]
    return {"".join(chosen) for chosen in islice(product(*options), _MOST_READINGS)}


def scripts_meant(parts: list[str]) -> set[str]:
    """Return the scripts in which the text is really written: those with letters that look like no Latin one."""
    letters = {sign for sign in set("".join(parts)) if not sign.isascii() and sign.isalpha()}
    return {script_of(sign) for sign in letters if not latin_letters(sign)}


def readings(part: str, scripts: Set[str], *, is_joined: bool = False) -> frozenset[str]:
    """Return the words that a part may be meant as, other than itself, all of them of at least three letters."""
    if part.isascii() and part.isalpha() and not REPEATED.search(part):
        return frozenset([part] if is_joined and len(part) >= SHORTEST else [])
    part = _LONG_RUN.sub(r"\1\1\1", part)
    if len(part) > LONGEST or not (is_leet(part) and is_meant_as_latin(part, scripts)):
        return frozenset()
    spelt = _spelt(part)
    read = {form for word in spelt for form in _without_repeats(word)}
    return frozenset(word for word in read if len(word) >= SHORTEST and (is_joined or word != part))


def _spelt(part: str) -> set[str]:
    """Return ways to read a part, up to 128: first with each sign as the same letter wherever it stands."""
    beside_latin = has_latin(part)
    options = {sign: letters_for(sign, beside_latin=beside_latin) for sign in part}
    alike = (dict(zip(options, chosen, strict=True)) for chosen in product(*options.values()))
    found = {"".join(map(letters.__getitem__, part)) for letters in islice(alike, _MOST_READINGS)}
    each = product(*map(options.__getitem__, part))
    return found | {"".join(letters) for letters in islice(each, _MOST_READINGS)}


def letters_for(sign: str, *, beside_latin: bool) -> tuple[str, ...]:
    """Return what a character may stand for: letters, itself, or "" for a sign that may be what it is."""
    if sign in _LEET:
        return (*_LEET[sign], "" if not sign.isalnum() else sign)
    if beside_latin and sign in BESIDE_LATIN:
        return (*BESIDE_LATIN[sign], sign)
    return latin_letters(sign) or (sign,)


def is_leet(part: str) -> bool:
    """Return whether digits and signs in a part may be meant as letters: not in 4k, a55, 1980s."""
    letters, digits = sum(map(str.isalpha, part)), sum(map(str.isdigit, part))
    return letters >= max(1, digits) or (letters >= 2 and len(part) >= 5)


def is_meant_as_latin(part: str, scripts: Set[str]) -> bool:
    """Return whether letters of other scripts in a part may be meant as Latin ones.

    They may beside Latin letters, and where the text has no letter of their script that looks like no Latin one.
    """
    found = {script_of(sign) for sign in part if sign.isalpha()}
    return LATIN in found or not found & scripts


def has_latin(part: str) -> bool:
    """Return whether a part has a Latin letter."""
    return any(sign.isalpha() and script_of(sign) == LATIN for sign in part)


def _without_repeats(word: str) -> set[str]:
    """Return the word itself, and with each repeat that is no English spelling as one letter, and as two."""
    if not REPEATED.search(word):
        return {word}
    pieces = ["".join(group) for _, group in groupby(word)]
    options = [(piece[0], piece[:2]) if REPEATED.search(piece) else (piece,) for piece in pieces]
    return {"".join(chosen) for chosen in islice(product(*options), _MOST_READINGS)}
