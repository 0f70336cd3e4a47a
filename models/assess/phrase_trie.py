"""Phrases by their words, so that many that begin alike are looked for at once."""

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Phrases:
    """The phrases that begin with certain words: the one that ends there, and longer ones by their next word."""

    term: str | None = None
    longer: "dict[str, Phrases]" = field(default_factory=dict)


class PhraseTree:
    """Phrases of one or more words, each with the term that it stands for."""

    def __init__(self) -> None:
        self.root = Phrases()

    def add(self, words: tuple[str, ...], term: str) -> None:
        """Add a phrase, unless it is there already."""
        phrases = self.root
        for word in words:
            if word not in phrases.longer:
                phrases.longer[word] = Phrases()
            phrases = phrases.longer[word]
        if phrases.term is None:
            phrases.term = term

    def first(self, words: list[str]) -> str | None:
        """Return the term of the first phrase that the words hold one after another, the shortest of that place."""
        first = self.root.longer
        for begin, word in enumerate(words):
            phrases, end = first.get(word), begin
            while phrases is not None:
                if phrases.term is not None:
                    return phrases.term
                end += 1
                phrases = phrases.longer.get(words[end]) if end < len(words) else None
        return None
