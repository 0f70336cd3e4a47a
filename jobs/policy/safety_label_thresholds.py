"""The checkers beside the safety checker: for which of their labels a batch's images are flagged, and from which score.

A checker gives each image, or prompt, a score for each of its labels. Two are the service of the setting
`NIGHTMILL_CONTENT_SAFETY_URL`, of images and of prompts; the others are classifiers, called by their cards' ids.
Scores are stored in image rows, `safety_scores["labels"]`, by checker and label.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import UsageError

LABELS = "labels"
"""Where image rows have the scores in `safety_scores`."""
OF_IMAGES, OF_PROMPTS = "content-safety", "content-safety-prompts"
SERVICE_CHECKERS = (OF_IMAGES, OF_PROMPTS)
CATEGORIES = ("Hate", "SelfHarm", "Sexual", "Violence")
"""The labels of the service; their scores are severities, 0 (safe), 2 (low), 4 (medium) and 6 (high)."""
MEDIUM = 4.0
HIGHEST = 10.0
"""Above all scores: a label with a higher threshold than its scores can have never flags."""

Thresholds = Mapping[str, Mapping[str, float]]
"""For each checker the labels that flag, with the lowest score that does."""

_LONGEST_LABEL = 60
_CHECKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM = "write it like nsfw-vit:nsfw=0.7, content-safety:Violence=4, or a checker alone"


def parse(text: str) -> dict[str, dict[str, float]]:
    """Parse entries CHECKER or CHECKER:LABEL=SCORE with commas between; a checker alone has no labels in the result.

    Raises UsageError that says which entry is wrong.
    """
    found: dict[str, dict[str, float]] = {}
    for entry in text.split(",") if text.strip() else []:
        name, colon, rest = entry.strip().partition(":")
        label, _, score = rest.rpartition("=")
        if not _CHECKER.fullmatch(name) or (colon and not is_label(label.strip())):
            raise UsageError(f"{entry.strip()!r} is no checker: {_FORM}")
        labels = found.setdefault(name, {})
        if colon:
            if label.strip() in labels:
                raise UsageError(f"{name}:{label.strip()} is given twice")
            labels[label.strip()] = threshold(score.strip(), repr(entry.strip()))
    return found


def normalised(thresholds: Thresholds) -> str | None:
    """Return thresholds in the one form that is stored, as `parse` reads it; None if there is no checker."""
    entries = []
    for checker, labels in sorted(thresholds.items()):
        entries += [f"{checker}:{label}={score:g}" for label, score in sorted(labels.items())] or [checker]
    return ",".join(entries) or None


def with_service_defaults(thresholds: Thresholds) -> dict[str, dict[str, float]]:
    """Return thresholds with those of the service's categories that aren't given: medium severity.

    Raises UsageError for a label of the service that is no category.
    """
    completed = {checker: dict(labels) for checker, labels in thresholds.items()}
    for checker in SERVICE_CHECKERS:
        if checker in completed:
            check_labels(checker, completed[checker], CATEGORIES)
            completed[checker] = dict.fromkeys(CATEGORIES, MEDIUM) | completed[checker]
    return completed


def check_labels(checker: str, labels: Mapping[str, float], known: Sequence[str]) -> None:
    """Raise UsageError for a label that the checker doesn't have."""
    if unknown := [label for label in labels if label not in known]:
        raise UsageError(f"{checker} has no label {unknown[0]!r}; there are {', '.join(known)}")


def is_label(text: str) -> bool:
    """Whether this can be a label: up to 60 printable characters without outer spaces, commas, colons, equals signs."""
    is_text = 0 < len(text) <= _LONGEST_LABEL and text.isprintable() and text == text.strip()
    return is_text and not set(text) & set(",:=")


def threshold(value: object, place: str) -> float:
    """Return the lowest score that flags: above 0, with 3 decimals at most, as scores have. Raises UsageError."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    if not 0 < number <= HIGHEST or abs(number * 1000 - round(number * 1000)) > 1e-6:
        raise UsageError(
            f"{place}: write the lowest score that flags, above 0 and up to {HIGHEST:g}, with 3 decimals at most"
        )
    return round(number, 3)


def reached(thresholds: Thresholds, scores: Any) -> dict[str, float]:
    """Return the labels, as CHECKER:LABEL, whose score reaches their threshold, with it.

    `scores` are the `labels` of an image row's `safety_scores`.
    """
    rated = {
        (checker, label): _score(scores, checker, label)
        for checker, labels in thresholds.items()
        for label in labels
    }
    return {
        f"{checker}:{label}": score
        for (checker, label), score in rated.items()
        if score is not None and score >= thresholds[checker][label]
    }


def _score(scores: Any, checker: str, label: str) -> float | None:
    labels = scores.get(checker) if isinstance(scores, Mapping) else None
    score = labels.get(label) if isinstance(labels, Mapping) else None
    return score if isinstance(score, int | float) and not isinstance(score, bool) else None
