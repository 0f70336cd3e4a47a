"""How strict the safety check is: what a batch's policy adds to the safety checker's scores, and further checkers.

Scores are stored as the checker computes them, a cosine minus the concept's threshold, so that another policy can be
applied to them later. They have 3 decimals; everything here is computed in whole thousandths, and by the same rules in
SQL (`jobs.safety_reevaluation.safety_thresholds_sql`), so that a worker and a later judgement never disagree.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import UsageError
from jobs.policy import safety_label_thresholds
from jobs.policy.safety_label_thresholds import LABELS, Thresholds
from jobs.states import SafetyStrength

Concept = int | str
"""What an image is flagged for: the number of a concept of the safety checker, or CHECKER:LABEL."""

CONCEPTS = 17
SPECIAL_CARE = 3
CONCEPT, CARE = "concepts", "special_care"

CARE_ADJUSTMENT = 10
"""What a special-care score above 0 adds to all later scores, in thousandths: as in Stable Diffusion's own checker."""

CHECKER_REASON = "safety checker:"
"""How reasons begin that come from scores; others come from the prompt filter."""

OF_STRENGTH: Mapping[SafetyStrength, int] = {
    SafetyStrength.LENIENT: -20,
    SafetyStrength.STANDARD: 0,
    SafetyStrength.STRONG: 20,
}
"""What a strength adds to every score, in thousandths: twice what the checker's authors add for special care."""

_MOST = 2000
_NUMBER = re.compile("[0-9]{1,4}")
_ENTRY = re.compile(r"\s*(all|[0-9]{1,4}|special_care\.[0-9]{1,4})\s*=\s*([^=\s]+)\s*")
_KNOWN = f"all, the concepts 0 to {CONCEPTS - 1}, and special_care.0 to special_care.{SPECIAL_CARE - 1}"


@dataclass(frozen=True)
class SafetyThresholds:
    """What is added to each score of the safety checker, in thousandths, above 0 being stricter.

    `labels` are the labels of further checkers, with the lowest score for which they flag.
    """

    concepts: tuple[int, ...] = (0,) * CONCEPTS
    special_care: tuple[int, ...] = (0,) * SPECIAL_CARE
    labels: Thresholds = field(default_factory=dict)

    @classmethod
    def of(
        cls, strength: SafetyStrength, thresholds: str | None, checkers: str | None = None
    ) -> "SafetyThresholds":
        """Return what strength and thresholds (as `normalised` returns them) add, and the further checkers."""
        given = _entries(thresholds or "")
        common = OF_STRENGTH[strength] + given.get("all", 0)
        return cls(
            tuple(common + given.get(str(number), 0) for number in range(CONCEPTS)),
            tuple(common + given.get(f"{CARE}.{number}", 0) for number in range(SPECIAL_CARE)),
            safety_label_thresholds.parse(checkers or ""),
        )

    def above(self, scores: Mapping[str, Any]) -> dict[Concept, float]:
        """Return that for which an image is flagged: concepts with their adjusted score, and labels with their score.

        `scores` are those of an image row, `concepts`, `special_care` and `labels`; of a prompt there are labels alone.
        """
        above: dict[Concept, float] = {}
        if CONCEPT in scores:
            above.update(self._concepts_above(scores))
        above.update(safety_label_thresholds.reached(self.labels, scores.get(LABELS, {})))
        return above

    def _concepts_above(self, scores: Mapping[str, Any]) -> dict[Concept, float]:
        concepts, care = _plain(scores)
        is_adjusted = any(score + added > 0 for score, added in zip(care, self.special_care, strict=True))
        shift = CARE_ADJUSTMENT * is_adjusted
        adjusted = (score + added + shift for score, added in zip(concepts, self.concepts, strict=True))
        return {number: score / 1000 for number, score in enumerate(adjusted) if score > 0}


def higher_scores(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return the scores of an image with the higher scores of two, as the checker would compute them.

    Whatever a policy flags one of the two for, it flags these for. `concepts` and `special_care` of an image row.
    """
    of_both = zip(_plain(one), _plain(other), strict=True)
    concepts, plain_care = ([max(pair) for pair in zip(*scores, strict=True)] for scores in of_both)
    care: list[int] = []
    for score in plain_care:
        care.append(score + CARE_ADJUSTMENT * any(earlier > 0 for earlier in care))
    shift = CARE_ADJUSTMENT * any(score > 0 for score in care)
    return {
        CONCEPT: tuple((score + shift) / 1000 for score in concepts),
        CARE: tuple(score / 1000 for score in care),
    }


def _plain(scores: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the scores of concepts and of special care without what special care has added, in thousandths."""
    care = [round(score * 1000) for score in scores[CARE]]
    shift = CARE_ADJUSTMENT * any(score > 0 for score in care)
    return [round(score * 1000) - shift for score in scores[CONCEPT]], [
        score - CARE_ADJUSTMENT * any(earlier > 0 for earlier in care[:number])
        for number, score in enumerate(care)
    ]


def concept_name(number: int, names: Sequence[str] = ()) -> str:
    """Return what a concept is called: by the names of a checker's first concepts, or else by its number."""
    return names[number] if number < len(names) else f"concept {number}"


def reason_of(above: Mapping[Concept, float], names: Sequence[str] = ()) -> str:
    """Return why an image is flagged, for people: the concepts of `SafetyThresholds.above` and their scores."""
    return f"{CHECKER_REASON} {', '.join(_with_score(each, score, names) for each, score in above.items())}"


def _with_score(concept: Concept, score: float, names: Sequence[str]) -> str:
    if isinstance(concept, int):
        return f"{concept_name(concept, names)} at {score:+.3f}"
    return f"{concept} at {score:g}"


def normalised(thresholds: str) -> str | None:
    """Return thresholds such as "3=0.02,special_care.1=-0.01" in the one form that is stored; None if they add nothing.

    Raises UsageError that says which entry is wrong, and what there is.
    """
    entries = {name: value for name, value in _entries(thresholds).items() if value}
    return ",".join(f"{name}={value / 1000:g}" for name, value in sorted(entries.items(), key=_order)) or None


def _entries(thresholds: str) -> dict[str, int]:
    """Return the values of an adjustment's text in thousandths, by name."""
    found: dict[str, int] = {}
    for entry in thresholds.split(",") if thresholds.strip() else []:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise UsageError(f"{entry.strip()!r} is no adjustment: write it like 3=0.02; there are {_KNOWN}")
        name = match[1] if not match[1].isdecimal() else str(int(match[1]))
        if name in found:
            raise UsageError(f"{name} is given twice")
        found[name] = thousandths_of(name, match[2], repr(entry.strip()))
    return found


def thousandths_of(name: str, value: str | float, place: str, named: str = "") -> int:
    """Return what is added to a score, by name, in thousandths; raises UsageError that begins with the place."""
    if not _is_known(name):
        raise UsageError(f"{place}: there is no such concept: there are {_KNOWN}{named}")
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"{place}: {value} is no number") from None
    except OverflowError:
        number = math.inf
    thousandths = round(number * 1000) if abs(number) <= _MOST else _MOST + 1
    if abs(thousandths) > _MOST or abs(number * 1000 - thousandths) > 1e-6:
        raise UsageError(f"{place}: write a number from -2 to 2 with 3 decimals at most, as scores have")
    return thousandths


def _is_known(name: str) -> bool:
    if name == "all":
        return True
    kind, _, number = name.rpartition(".")
    return (
        kind in ("", CARE)
        and _NUMBER.fullmatch(number) is not None
        and int(number) < (SPECIAL_CARE if kind else CONCEPTS)
    )


def _order(entry: tuple[str, int]) -> tuple[bool, bool, int]:
    name, _ = entry
    kind, _, number = name.rpartition(".")
    return name != "all", kind == CARE, int(number) if number.isdecimal() else 0
