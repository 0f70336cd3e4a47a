"""The prompt filter: words and phrases that prompts must not contain, however they are spelt."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice, product
from pathlib import Path

from models.assess.deobfuscate_prompt import Edge, PromptReader, sought_within
from models.assess.deobfuscate_word import may_be_disguised, skeletons
from models.assess.phrase_trie import Phrases, PhraseTree
from models.assess.prompt_words import normalized, words_in, words_of, words_with_digits
from models.errors import ModelError

_MOST_SPELLINGS = 16
_MOST_WORDS = 32
"""Words of a term that are compared, so that the time for a prompt has a bound."""

Reached = dict[Phrases, bool]
"""Phrases that have begun at a place in a prompt, and whether any of their words so far is disguised."""


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
    diacritics, are repeated, or stand apart (`models.assess.deobfuscate_prompt`).
    """

    def __init__(self, terms: Mapping[tuple[str, ...], str], as_they_stand: Set[str] = frozenset()) -> None:
        """Take the terms, keyed by their words as `words_of` returns them, and words that are never a disguise."""
        self._listed = sorted(set(terms.values()))
        self._plain = PhraseTree()
        self._spelt = PhraseTree()
        self._joined: dict[str, str] = {}
        sought: set[str] = set()
        for words, term in terms.items():
            self._plain.add(words[:_MOST_WORDS], term)
            for spelling in _spellings(words, term):
                self._spelt.add(spelling, term)
                self._joined.setdefault("".join(spelling), term)
                sought.update(spelling)
        self._reader = PromptReader(sought_within(sought | self._joined.keys()), as_they_stand)

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
                as_they_stand.update(words_with_digits(normalized(term)))
            elif words:
                terms[words] = term
        return cls(terms, as_they_stand)

    @property
    def listed(self) -> list[str]:
        """The terms as they are written in the list, sorted."""
        return self._listed.copy()

    def find(self, text: str) -> FoundTerm | None:
        """Return the first term that the text contains, or None; one that is spelt as in the list goes first."""
        normal = normalized(text)
        if term := self._plain.first(words_in(normal)):
            return FoundTerm(term)
        return self._find_disguised(normal) if may_be_disguised(normal) else None

    def _find_disguised(self, normal: str) -> FoundTerm | None:
        words, others = self._reader.read(normal)
        if not others:
            return None
        reached: dict[int, Reached] = {}
        for number, word in enumerate(words):
            here = {self._spelt.root: False, **reached.pop(number, {})}
            if term := _read_on(here, word, reached.setdefault(number + 1, {}), is_plain=True):
                return FoundTerm(term, is_disguised=True)
            for edge in others.get(number, ()):
                if term := self._read_otherwise(here, edge, reached.setdefault(edge.end, {})):
                    return FoundTerm(term, is_disguised=True)
        return None

    def _read_otherwise(self, here: Reached, edge: Edge, there: Reached) -> str | None:
        for word in sorted(edge.words):
            term = self._joined.get(word) if edge.is_joined else None
            if term := term or _read_on(here, word, there, is_plain=False):
                return term
        return None


def _spellings(words: tuple[str, ...], term: str) -> Iterator[tuple[str, ...]]:
    """Yield a term's words as they look, with digits apart from letters and, if it has any, beside them."""
    for phrase in dict.fromkeys([words, tuple(words_with_digits(normalized(term)))]):
        yield from islice(product(*map(sorted, map(skeletons, phrase[:_MOST_WORDS]))), _MOST_SPELLINGS)


def _read_on(here: Reached, word: str, there: Reached, *, is_plain: bool) -> str | None:
    """Note the phrases that go on with a word, and whether any of their words is disguised; return a term that ends."""
    for phrases, was_disguised in here.items():
        if longer := phrases.longer.get(word):
            is_disguised = was_disguised or not is_plain
            if is_disguised and longer.term is not None:
                return longer.term
            there[longer] = there.get(longer, False) or is_disguised
    return None
