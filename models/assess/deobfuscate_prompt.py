"""The ways to read a prompt: word by word as it stands, and as what its words may be spelt for."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set
from functools import cache
from importlib.resources import files
from itertools import chain, groupby, pairwise, product
from typing import NamedTuple

from models.assess.deobfuscate_word import (
    LONGEST,
    REPEATED,
    SHORTEST,
    has_latin,
    is_leet,
    is_meant_as_latin,
    letters_for,
    readings,
    scripts_meant,
)
from models.assess.prompt_words import part_pattern, word_pattern

_CONNECTORS = frozenset(".-_*~·•‐‑–—")
_DIMENSION = re.compile(r"[dk](?=.{3})")
"""What 2d, 3d, 4k and 8k leave of themselves at the beginning of a word that follows without a gap."""

SHORTEST_WITHIN = 4
"""Letters that a term has at least which is found within a longer run of single letters."""

_SHORTEST_OF_DIGITS = 4
"""Characters that a word spelt with digits has at least beside further digits: fa6 in 7803fa6 is none."""

_MOST_TRIED = 64


class Edge(NamedTuple):
    """A way to read on in a prompt: as one of these words, which reach to the word with the number `end`.

    `is_joined` ones are several parts, read as one.
    """

    end: int
    words: frozenset[str]
    is_joined: bool = False


class _Part(NamedTuple):
    """Words and signs without a gap: its place in the text, and its words with the number of the first."""

    text: str
    begin: int
    end: int
    first: int
    words: list[str]

    @property
    def last(self) -> int:
        return self.first + len(self.words)


class PromptReader:
    """Reads prompts in the ways in which their words may be meant."""

    def __init__(self, sought: Sequence[str], as_they_stand: Set[str]) -> None:
        """Take the words to look for within runs of single letters, sorted, and words that are never a disguise."""
        self._sought = sought
        self._as_they_stand = as_they_stand
        self._kept = as_they_stand | _words_of_other_languages()

    def read(self, normal: str) -> tuple[list[str], dict[int, list[Edge]]]:
        """Return the words of a normalised text, and other ways to read it, by the number of the word they begin at."""
        parts, words = _parts(normal)
        scripts = scripts_meant(words)
        found: dict[int, list[Edge]] = {}
        for part in parts:
            if not _is_plain(part.text):
                for begin, edge in self._disguised(part, scripts):
                    found.setdefault(begin, []).append(edge)
        for begin, edge in self._joined(normal, parts, scripts):
            found.setdefault(begin, []).append(edge)
        return words, found

    def _disguised(self, part: _Part, scripts: Set[str]) -> Iterator[tuple[int, Edge]]:
        if part.text in self._kept:
            return
        for begin, end, text in chain(_pieces(part), _letters(part)):
            read = readings(text, scripts) if text not in self._kept else None
            if read:
                yield begin, Edge(end, read)
        for number, (digits, word) in enumerate(pairwise(part.words), start=part.first + 1):
            if digits.isdigit() and _DIMENSION.match(word):
                yield number, Edge(number + 1, readings(word[1:], scripts) | {word[1:]})

    def _joined(self, normal: str, parts: list[_Part], scripts: Set[str]) -> Iterator[tuple[int, Edge]]:
        runs = [parts[begin:end] for begin, end in _ranges([len(part.text) == 1 for part in parts])]
        clusters = [piece for cluster in _clusters(normal, parts) for piece in _pieces(_as_one(cluster))]
        segments = [_as_one(segment) for run in runs for segment in _segments(run)]
        for begin, end, text in [*clusters, *((part.first, part.last, part.text) for part in segments)]:
            words = readings(text, scripts, is_joined=True) if begin < end else None
            if words:
                yield begin, Edge(end, words, is_joined=True)
        for run in runs:
            yield from self._within(run, scripts)

    def _within(self, run: list[_Part], scripts: Set[str]) -> Iterator[tuple[int, Edge]]:
        """Yield what is sought within a run of single letters, but not where it is within a word that may stand."""
        if len(run) < SHORTEST_WITHIN or not is_meant_as_latin("".join(part.text for part in run), scripts):
            return
        for parts in _without_repeats(run):
            text = "".join(part.text for part in parts)
            beside_latin = has_latin(text)
            options = [letters_for(sign, beside_latin=beside_latin) for sign in text]
            for begin in range(len(text) - SHORTEST_WITHIN + 1):
                for end, word in self._sought_at(begin, options):
                    if is_leet(text[begin:end]) and not self._may_stand(text, begin, end):
                        yield parts[begin].first, Edge(parts[end - 1].last, frozenset([word]), is_joined=True)

    def _sought_at(self, begin: int, options: list[tuple[str, ...]]) -> Iterator[tuple[int, str]]:
        """Yield the words sought that begin at a place, and where they end."""
        ahead = [(begin, "")]
        for _ in range(_MOST_TRIED):
            if not ahead:
                return
            place, read = ahead.pop()
            for spelt in {read + letter for letter in options[place]} - {""}:
                index = bisect_left(self._sought, spelt)
                if index < len(self._sought) and self._sought[index].startswith(spelt):
                    if self._sought[index] == spelt:
                        yield place + 1, spelt
                    if place + 1 < len(options):
                        ahead.append((place + 1, spelt))

    def _may_stand(self, text: str, begin: int, end: int) -> bool:
        if not self._as_they_stand:
            return False
        return any(
            text[first:last] in self._as_they_stand
            for first in range(max(0, end - LONGEST), begin + 1)
            for last in range(end, min(len(text), first + LONGEST) + 1)
        )


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isalpha() and not REPEATED.search(text)


def _parts(normal: str) -> tuple[list[_Part], list[str]]:
    """Return the parts of a text and its words, all of which lie in parts."""
    parts: list[_Part] = []
    words: list[str] = []
    pattern = word_pattern(normal)
    for match in part_pattern(normal).finditer(normal):
        text = match[0]
        own = [text] if text.isalpha() else pattern.findall(text)
        parts.append(_Part(text, match.start(), match.end(), len(words), own))
        words += own
    return parts, words


def _as_one(parts: list[_Part]) -> _Part:
    text = "".join(part.text for part in parts)
    words = [word for part in parts for word in part.words]
    return _Part(text, parts[0].begin, parts[-1].end, parts[0].first, words)


def _pieces(part: _Part) -> Iterator[tuple[int, int, str]]:
    """Yield the ranges of a part's words that are read as one, and their text: all, and without digits about them."""
    words, text = part.words, part.text
    if words:
        yield part.first, part.last, text
    if len(words) < 2:
        return
    begin = text.index(words[0]) + len(words[0]) if words[0].isdigit() else 0
    end = text.rindex(words[-1]) if words[-1].isdigit() else len(text)
    for first, last in sorted({(begin, len(text)), (0, end), (begin, end)} - {(0, len(text))}):
        if last - first >= _SHORTEST_OF_DIGITS or not any(map(str.isdigit, text[first:last])):
            yield part.first + (first > 0), part.last - (last < len(text)), text[first:last]


def _letters(part: _Part) -> Iterator[tuple[int, int, str]]:
    """Yield the words of a part of several that are letters, with their ranges."""
    for number, word in enumerate(part.words if len(part.words) > 1 else [], start=part.first):
        if not word.isdigit():
            yield number, number + 1, word


def _clusters(normal: str, parts: list[_Part]) -> Iterator[list[_Part]]:
    """Yield the parts with nothing but one sign between any two of them, as in n.ude."""
    gaps = [
        after.begin - before.end == 1 and normal[before.end] in _CONNECTORS
        for before, after in pairwise(parts)
    ]
    yield from (parts[begin : end + 1] for begin, end in _ranges(gaps))


def _without_digits(parts: list[_Part]) -> list[_Part]:
    """Return parts without the numbers at their ends."""
    begin, end = 0, len(parts)
    while begin < end and parts[begin].text.isdigit():
        begin += 1
    while end > begin and parts[end - 1].text.isdigit():
        end -= 1
    return parts[begin:end]


def _segments(run: list[_Part]) -> Iterator[list[_Part]]:
    """Yield parts of one letter each, all and between the wider gaps, also without numbers and words of one letter."""
    gaps = [after.begin - before.end for before, after in pairwise(run)]
    ranges = [(0, len(run))]
    if gaps and min(gaps) < max(gaps):
        cuts = [0, *(number for number, gap in enumerate(gaps, start=1) if gap > min(gaps)), len(run)]
        ranges += pairwise(cuts)
    for begin, end in ranges:
        begins = {begin, begin + (run[begin].text in "ai")}
        ends = {end, end - (run[end - 1].text in "ai")}
        found = [run[first:last] for first, last in product(begins, ends)]
        letters = _without_digits(run[begin:end])
        if all(part.text.isalpha() for part in letters):
            found.append(letters)
        yield from (parts for parts in found if len(parts) >= SHORTEST)


def _ranges(flags: list[bool]) -> Iterator[tuple[int, int]]:
    place = 0
    for flag, group in groupby(flags):
        length = len(list(group))
        if flag:
            yield place, place + length
        place += length


def _without_repeats(run: list[_Part]) -> list[list[_Part]]:
    """Return a run of single letters as it is, and with repeats that English has in hardly any word as one and two."""
    groups = [list(group) for _, group in groupby(run, lambda part: part.text)]
    if not any(_is_repeat(group) for group in groups):
        return [run]
    shorter = [
        [part for group in groups for part in (group[:most] if _is_repeat(group) else group)]
        for most in (1, 2)
    ]
    return [run, *shorter]


def _is_repeat(group: list[_Part]) -> bool:
    return len(group) > 2 or (len(group) == 2 and group[0].text in "ahijquvwxy")


def sought_within(words: Set[str]) -> list[str]:
    """Return, sorted, the words that are looked for within runs of single letters."""
    return sorted(word for word in words if SHORTEST_WITHIN <= len(word) <= LONGEST)


@cache
def _words_of_other_languages() -> frozenset[str]:
    text = (files("models.assess") / "words_with_diacritics.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() for word in line.partition("#")[0].split())
