"""Suggest the name that a misspelt one was meant to be, and shorten lists of names in messages."""

from collections.abc import Iterable, Sequence


def nearest(text: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name that is most similar to `text`, or None if no similarity reaches `cutoff`.

    The similarity is that of insertions and deletions relative to both lengths: 1 is equal, 0 shares no letter. Only
    the first hundred characters of `text` are compared.
    """
    from rapidfuzz.distance import Indel  # noqa: PLC0415 - needed only after a mistake
    from rapidfuzz.process import extractOne  # noqa: PLC0415

    found = extractOne(text[:100], list(names), scorer=Indel.normalized_similarity, score_cutoff=cutoff)
    return None if found is None else str(found[0])


def some_of(names: Sequence[object], most: int) -> str:
    """Return the first names and how many more there are, as in: a, b and 3 more."""
    first = ", ".join(map(str, names[:most]))
    return f"{first} and {len(names) - most:,} more" if len(names) > most else first
