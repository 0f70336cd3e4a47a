"""Suggestion of the name that a misspelt one was meant to be."""

from collections.abc import Iterable


def nearest(text: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to the beginning of `text`, or None if none is similar."""
    from rapidfuzz.distance import Indel  # noqa: PLC0415 - needed only after a mistake
    from rapidfuzz.process import extractOne  # noqa: PLC0415

    found = extractOne(text[:100], list(names), scorer=Indel.normalized_similarity, score_cutoff=0.6)
    return None if found is None else str(found[0])
