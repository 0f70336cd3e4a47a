"""How strict the safety checker is: what a batch's policy adds to its scores before they are compared with 0.

Scores are stored as the checker computes them, a cosine minus the concept's threshold, so that another policy can be
applied to them later. They have 3 decimals; everything here is computed in whole thousandths, and by the same rules in
SQL (`jobs.safety_reevaluation.safety_thresholds_sql`), so that a worker and a later judgement never disagree.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import UsageError
from jobs.states import SafetyStrength

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
_SHOWN = 80
_NUMBER = re.compile("[0-9]{1,4}")
_ENTRY = re.compile(r"\s*(all|[0-9]{1,4}|special_care\.[0-9]{1,4})\s*=\s*([^=\s]+)\s*")
_KNOWN = f"all, the concepts 0 to {CONCEPTS - 1}, and special_care.0 to special_care.{SPECIAL_CARE - 1}"


@dataclass(frozen=True)
class ScoreAdjustments:
    """What is added to each score of a safety checker, in thousandths; above 0 is stricter."""

    concepts: tuple[int, ...] = (0,) * CONCEPTS
    special_care: tuple[int, ...] = (0,) * SPECIAL_CARE

    @classmethod
    def of(cls, strength: SafetyStrength, thresholds: str | None) -> "ScoreAdjustments":
        """Return what a strength and the thresholds of a policy (as `normalised` returns them) add together."""
        given = _entries(thresholds or "")
        common = OF_STRENGTH[strength] + given.get("all", 0)
        return cls(
            tuple(common + given.get(str(number), 0) for number in range(CONCEPTS)),
            tuple(common + given.get(f"{CARE}.{number}", 0) for number in range(SPECIAL_CARE)),
        )

    def above(self, scores: Mapping[str, Sequence[float]]) -> dict[int, float]:
        """Return the concepts whose adjusted score is above 0, with that score: those for which an image is flagged.

        `scores` are those of an image row: `concepts` and `special_care`.
        """
        care = [round(score * 1000) for score in scores[CARE]]
        was_adjusted = any(score > 0 for score in care)
        plain = [
            score - CARE_ADJUSTMENT * any(earlier > 0 for earlier in care[:number])
            for number, score in enumerate(care)
        ]
        is_adjusted = any(score + added > 0 for score, added in zip(plain, self.special_care, strict=True))
        shift = CARE_ADJUSTMENT * (is_adjusted - was_adjusted)
        adjusted = (
            round(score * 1000) + added + shift
            for score, added in zip(scores[CONCEPT], self.concepts, strict=True)
        )
        return {number: score / 1000 for number, score in enumerate(adjusted) if score > 0}


def concept_name(number: int, names: Sequence[str] = ()) -> str:
    """Return what a concept is called: by the names of a checker's first concepts, or else by its number."""
    return names[number] if number < len(names) else f"concept {number}"


def reason_of(above: Mapping[int, float], names: Sequence[str] = ()) -> str:
    """Return why an image is flagged, for people: the concepts of `ScoreAdjustments.above` and their scores."""
    named = (f"{concept_name(number, names)} at {score:+.3f}" for number, score in above.items())
    return f"{CHECKER_REASON} {', '.join(named)}"


def normalised(thresholds: str) -> str | None:
    """Return thresholds such as "3=0.02,special_care.1=-0.01" in the one form that is stored; None if they add nothing.

    Raises UsageError that says which entry is wrong, and what there is.
    """
    entries = {name: value for name, value in _entries(thresholds).items() if value}
    return ",".join(f"{name}={value / 1000:g}" for name, value in sorted(entries.items(), key=_order)) or None


def thresholds_of_file(name: str, text: str, names: Sequence[str] = ()) -> str | None:
    """Return the thresholds of a TOML or JSON file, as `normalised` does.

    It holds `all`, a table `concepts` and a table `special_care`, each of numbers by the concept's number, or its name
    of `names`, those of the first concepts. Raises UsageError that names the file, the place and what there is.
    """
    numbers: dict[str, str] = {concept: str(number) for number, concept in enumerate(names)}
    named = "".join(f"; {number} is {concept!r}" for concept, number in numbers.items())
    entries: list[tuple[str, str, Any]] = []
    for key, value in _parsed(name, text).items():
        if key == CONCEPT and isinstance(value, dict):
            entries += [
                (f"{key}.{told}", numbers.get(str(told), str(told)), found) for told, found in value.items()
            ]
        elif key == CARE and isinstance(value, dict):
            entries += [(f"{key}.{told}", f"{CARE}.{told}", found) for told, found in value.items()]
        elif key == "all":
            entries.append((key, key, value))
        else:
            raise UsageError(
                f"{name}: {_excerpt(key)}: write `all = NUMBER`, or tables [{CONCEPT}] and [{CARE}]"
            )
    for place, concept, value in entries:
        where = f"{name}: {_excerpt(place)}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{where}: {_excerpt(_as_json(value))} is no number")
        _thousandths(concept, value, where, named)
        if [other for _, other, _ in entries].count(concept) > 1:
            raise UsageError(f"{where}: concept {concept} is given twice, by its name and its number")
    return normalised(",".join(f"{concept}={value}" for _, concept, value in entries))


def _parsed(name: str, text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - only commands that are given a file need it

    is_json = text.lstrip().startswith("{")
    try:
        values = json.loads(text) if is_json else tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{name}: tables are nested too deeply: there are no tables in tables") from None
    except ValueError as error:  # also of integers with thousands of digits
        raise UsageError(f"{name} is no {'JSON' if is_json else 'TOML'} file: {error}") from None
    found: dict[str, Any] = values
    return found


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (ValueError, RecursionError):  # integers with thousands of digits, tables in tables
        return f"a value of {type(value).__name__}"


def _excerpt(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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
        found[name] = _thousandths(name, match[2], repr(entry.strip()))
    return found


def _thousandths(name: str, value: str | float, place: str, named: str = "") -> int:
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
