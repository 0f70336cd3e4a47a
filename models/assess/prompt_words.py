"""The words of a prompt, and what a reader takes them for if they are spelt to get past a filter."""

import re
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby, islice, pairwise, product

from models.assess.confusable_letters import DIACRITICS, LATIN, WHITE_ON_BLACK, latin_letters, script_of

_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_NO_SPACES}]+|[^\W_{_NO_SPACES}]+")
"""A word; letters of scripts that put no spaces between words are words apart from those beside them."""
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)

# What stands for a letter, and "" where the sign is more often what it is.
_LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "|": "il", "+": "t", "€": "e", "¢": "c", "¥": "y",
}  # fmt: skip
_SIGNS = re.escape("".join(sign for sign in _LEET if not sign.isdigit()))
_PART = re.compile(rf"[{_NO_SPACES}]+|(?:[^\W_{_NO_SPACES}]|[{_SIGNS}])+")
_CONNECTORS = re.compile(r"[.\-_*~·•‐‑–—]")

_LONG_RUN = re.compile(r"(.)\1{2,}")
_REPEATED = re.compile(r"([a-z])\1\1|([ahijquvwxy])\2")
"""Repeats that English has in hardly any word: three of a letter, and two of these."""

_MOST_READINGS = 64
_LONGEST = 40
_SHORTEST = 3


@dataclass(frozen=True, slots=True)
class Edge:
    """A way to read on in a prompt: as one of these words, which reach to the part with the number `end`.

    `is_plain` words are read as they stand; `is_joined` ones are several parts, read as one.
    """

    end: int
    words: frozenset[str]
    is_plain: bool = False
    is_joined: bool = False


def normalized(text: str) -> str:
    """Return a text case-folded and NFKC-normalised, without invisible characters and marks that stand apart."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = folded.translate(WHITE_ON_BLACK)
    return DIACRITICS.sub("", unicodedata.normalize("NFKC", _INVISIBLE.sub("", folded)))


def words_of(text: str) -> list[str]:
    """Return a text's words, normalised, without punctuation."""
    return words_in(normalized(text))


def words_in(normal: str) -> list[str]:
    """Return the words of a normalised text."""
    return _WORD.findall(normal)


def may_be_disguised(normal: str) -> bool:
    """Return whether any word of a normalised text might be read in another way than it stands."""
    return _SUSPICIOUS.search(normal) is not None


_SUSPICIOUS = re.compile(
    rf"[^\x00-\x7f]|[a-z][0-9{_SIGNS}]|[0-9{_SIGNS}][a-z]|[a-z][.\-_*~][a-z]|{_REPEATED.pattern}"
    r"|(?<![a-z])[a-z][^a-z]+[a-z][^a-z]+[a-z](?![a-z])"
)


def skeletons(word: str) -> set[str]:
    """Return what a word of the list looks like, letter by letter: Latin letters where they look like some."""
    options = [latin_letters(sign) or (sign,) for sign in word]
    return {"".join(chosen) for chosen in islice(product(*options), _MOST_READINGS)}


def edges(normal: str, as_they_stand: Set[str] = frozenset()) -> list[list[Edge]]:
    """Return the ways to read a normalised text, by the number of the part at which they begin.

    The words `as_they_stand` are read in no other way.
    """
    matches = list(_PART.finditer(normal))
    parts = [match[0] for match in matches]
    scripts = _scripts_meant(parts)
    kept = as_they_stand | _words_of_other_languages()
    found = [
        [_plain_edge(part, number), *([] if part in kept else _disguised_edge(part, number, scripts))]
        for number, part in enumerate(parts)
    ]
    for begin, end in [*_clusters(normal, matches), *_runs_of_single_letters(parts)]:
        words = _readings("".join(parts[begin:end]), scripts, is_joined=True)
        if words:
            found[begin].append(Edge(end, words, is_joined=True))
    return found


def _plain_edge(part: str, number: int) -> Edge:
    return Edge(number + 1, frozenset(_WORD.findall(part)[:1] or [part]), is_plain=True)


def _disguised_edge(part: str, number: int, scripts: Set[str]) -> list[Edge]:
    words = _readings(part, scripts)
    return [Edge(number + 1, words)] if words else []


def _clusters(normal: str, matches: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of parts with nothing but one sign between any two of them, as in n.ude."""
    gaps = [
        _CONNECTORS.fullmatch(normal, before.end(), after.start()) is not None
        for before, after in pairwise(matches)
    ]
    yield from ((begin, end + 1) for begin, end in _ranges(gaps))


def _runs_of_single_letters(parts: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of parts of one letter each, whatever stands between them, also without words of one letter."""
    for begin, end in _ranges([len(part) == 1 for part in parts]):
        begins = {begin, begin + (parts[begin] in "ai")}
        ends = {end, end - (parts[end - 1] in "ai")}
        yield from (pair for pair in product(begins, ends) if pair[1] - pair[0] >= _SHORTEST)


def _ranges(flags: list[bool]) -> Iterator[tuple[int, int]]:
    place = 0
    for flag, group in groupby(flags):
        length = len(list(group))
        if flag:
            yield place, place + length
        place += length


def _scripts_meant(parts: list[str]) -> set[str]:
    """Return the scripts in which the text is really written: those with letters that look like no Latin one."""
    letters = {sign for part in parts for sign in part if sign.isalpha()}
    return {script_of(sign) for sign in letters if not latin_letters(sign)}


@cache
def _words_of_other_languages() -> frozenset[str]:
    text = (files("models.assess") / "words_with_diacritics.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() for word in line.partition("#")[0].split())


def _readings(part: str, scripts: Set[str], *, is_joined: bool = False) -> frozenset[str]:
    """Return the words that a part may be meant as, other than itself, all of them of at least three letters."""
    if part.isascii() and part.isalpha() and not _REPEATED.search(part):
        return frozenset([part] if is_joined and len(part) >= _SHORTEST else [])
    part = _LONG_RUN.sub(r"\1\1\1", part)
    if len(part) > _LONGEST or not (_is_leet(part) and _is_meant_as_latin(part, scripts)):
        return frozenset()
    options = [_options(sign) for sign in part]
    spelt = {"".join(letters) for letters in islice(product(*options), _MOST_READINGS)}
    read = {form for word in spelt for form in _without_repeats(word)}
    return frozenset(word for word in read if len(word) >= _SHORTEST and (is_joined or word != part))


def _options(sign: str) -> tuple[str, ...]:
    if sign in _LEET:
        return (*_LEET[sign], "" if not sign.isalnum() else sign)
    return latin_letters(sign) or (sign,)


def _is_leet(part: str) -> bool:
    """Return whether digits and signs in a part may be meant as letters: not in 4k, a55, 1980s."""
    letters, digits = sum(map(str.isalpha, part)), sum(map(str.isdigit, part))
    return letters >= max(1, digits) or (letters >= 2 and len(part) >= 5)


def _is_meant_as_latin(part: str, scripts: Set[str]) -> bool:
    """Return whether letters of other scripts in a part may be meant as Latin ones.

    They may beside Latin letters, and where the text has no letter of their script that looks like no Latin one.
    """
    found = {script_of(sign) for sign in part if sign.isalpha()}
    return LATIN in found or not found & scripts


def _without_repeats(word: str) -> set[str]:
    """Return the word itself, and with each repeat that is no English spelling as one letter, and as two."""
    if not _REPEATED.search(word):
        return {word}
    pieces = ["".join(group) for _, group in groupby(word)]
    options = [(piece[0], piece[:2]) if _REPEATED.search(piece) else (piece,) for piece in pieces]
    return {"".join(chosen) for chosen in islice(product(*options), _MOST_READINGS)}
