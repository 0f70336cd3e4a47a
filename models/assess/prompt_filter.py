"""The prompt filter: words and phrases that prompts must not contain, however they are spelt."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice, product
from pathlib import Path

from models.assess.prompt_words import (
    Edge,
    edges,
    may_be_disguised,
    normalized,
    skeletons,
    words_in,
    words_of,
)
from models.errors import ModelError

_MOST_SPELLINGS = 16

Sought = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class FoundTerm:
    """A term that a prompt contains, as it is written in the list; `is_disguised`: the prompt spells it otherwise."""

    term: str
    is_disguised: bool = False

    def __str__(self) -> str:
        return f"{self.term!r} in another spelling" if self.is_disguised else repr(self.term)


def read_terms(source: Traversable, most_bytes: int = 10_000_000) -> str:
    """Return the text of a UTF-8 file of terms. Raises ModelError when it can't be read, or is too long."""
    try:
        with source.open("rb") as file:
            body = file.read(most_bytes + 1)
        if len(body) > most_bytes:
            raise ModelError(f"the prompt terms in {source} are longer than {most_bytes:,} bytes")
        return body.decode("utf-8-sig")
    except OSError as error:
        raise ModelError(f"can't read the prompt terms in {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{source} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


class PromptTerms:
    """Terms of one or more words, matched as whole words regardless of case, character width and punctuation.

    They are also found where letters are replaced by others that look like them, by digits or by signs, have
    diacritics, are repeated, or stand apart (`models.assess.prompt_words`).
    """

    def __init__(self, terms: Mapping[tuple[str, ...], str], as_they_stand: Set[str] = frozenset()) -> None:
        """Take the terms, keyed by their words as `words_of` returns them, and words that are never a disguise."""
        self._as_they_stand = as_they_stand
        self._plain: dict[str, list[Sought]] = {}
        self._spelt: dict[str, list[Sought]] = {}
        self._joined: dict[str, str] = {}
        for words, term in terms.items():
            self._plain.setdefault(words[0], []).append((words, term))
            for spelling in islice(product(*map(sorted, map(skeletons, words))), _MOST_SPELLINGS):
                self._spelt.setdefault(spelling[0], []).append((spelling, term))
                self._joined.setdefault("".join(spelling), term)

    @classmethod
    def load(cls, path: Path | None) -> "PromptTerms":
        """Read a UTF-8 text file as `parse` takes it; None means the built-in list.

        Raises ModelError when the file can't be read or a line contains no word.
        """
        source = files("models.assess") / "prompt_terms.txt" if path is None else path
        return cls.parse(read_terms(source), str(source))

    @classmethod
    def parse(cls, text: str, source: str) -> "PromptTerms":
        """Take one term per line, with `#` comments; words after `!` are read as they stand, never as a disguise.

        Raises ModelError, naming the source, when a line contains no word.
        """
        terms: dict[tuple[str, ...], str] = {}
        as_they_stand: set[str] = set()
        for number, line in enumerate(text.splitlines(), start=1):
            term = line.partition("#")[0].strip()
            words = tuple(words_of(term))
            if term and not words:
                raise ModelError(
                    f"{source}, line {number}: {term!r} holds no word; remove it, or put # first"
                )
            if term.startswith("!"):
                as_they_stand.update(words)
            elif words:
                terms[words] = term
        return cls(terms, as_they_stand)

    @property
    def listed(self) -> list[str]:
        """The terms as they are written in the list, sorted."""
        return sorted({term for alike in self._plain.values() for _, term in alike})

    def find(self, text: str) -> FoundTerm | None:
        """Return the first term that the text contains, or None; one that is spelt as in the list goes first."""
        normal = normalized(text)
        words = words_in(normal)
        for index, word in enumerate(words):
            for sought, term in self._plain.get(word, ()):
                if tuple(words[index : index + len(sought)]) == sought:
                    return FoundTerm(term)
        return self._find_disguised(normal) if may_be_disguised(normal) else None

    def _find_disguised(self, normal: str) -> FoundTerm | None:
        ways = edges(normal, self._as_they_stand)
        for begin in ways:
            for edge in begin:
                for word in sorted(edge.words):
                    if edge.is_joined and word in self._joined:
                        return FoundTerm(self._joined[word], is_disguised=True)
                    for sought, term in self._spelt.get(word, ()):
                        if _goes_on(ways, edge, sought[1:], not edge.is_plain):
                            return FoundTerm(term, is_disguised=True)
        return None


def _goes_on(ways: list[list[Edge]], edge: Edge, rest: tuple[str, ...], is_disguised: bool) -> bool:
    """Return whether the text can be read as the rest of a term after an edge, with any of its words disguised."""
    if not rest:
        return is_disguised
    return edge.end < len(ways) and any(
        rest[0] in following.words
        and _goes_on(ways, following, rest[1:], is_disguised or not following.is_plain)
        for following in ways[edge.end]
    )
