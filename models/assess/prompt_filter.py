"""The prompt filter: words and phrases that prompts must not contain."""

import re
import unicodedata
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from models.errors import ModelError

_WORD = re.compile(r"[^\W_]+")
_INVISIBLE = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


class PromptTerms:
    """Terms of one or more words, matched as whole words regardless of case, character width and punctuation."""

    def __init__(self, terms: Mapping[tuple[str, ...], str]) -> None:
        """Take the terms, keyed by their words as `words_of` returns them."""
        self.digest = sha256(repr(sorted(terms.items())).encode()).hexdigest()
        """Digest of the list: equal lists find the same."""
        self._beginnings: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for words, term in terms.items():
            self._beginnings.setdefault(words[0], []).append((words, term))

    @classmethod
    def load(cls, path: Path | None) -> "PromptTerms":
        """Read a UTF-8 text file with one term per line and `#` comments; None means the built-in list.

        Raises ModelError when the file can't be read or a line contains no word.
        """
        source = files("models.assess") / "prompt_terms.txt" if path is None else path
        try:
            text = source.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ModelError(f"can't read the prompt terms in {source}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{source} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
        return cls(_parsed(text, str(source)))

    def find(self, text: str) -> str | None:
        """Return the first term that the text contains, as it is written in the list, or None."""
        words = words_of(text)
        for index, word in enumerate(words):
            for sought, term in self._beginnings.get(word, ()):
                if tuple(words[index : index + len(sought)]) == sought:
                    return term
        return None


def words_of(text: str) -> list[str]:
    """Return a text's words, case-folded and NFKC-normalised, without invisible characters and punctuation."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _WORD.findall(_INVISIBLE.sub("", folded))


def _parsed(text: str, source: str) -> dict[tuple[str, ...], str]:
    terms = {}
    for number, line in enumerate(text.splitlines(), start=1):
        term = line.partition("#")[0].strip()
        words = tuple(words_of(term))
        if term and not words:
            raise ModelError(f"{source}, line {number}: {term!r} holds no word; remove it, or put # first")
        if words:
            terms[words] = term
    return terms
