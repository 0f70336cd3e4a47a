"""Reads a file of thresholds, TOML or JSON: what is added to the safety checker's scores, and limits of labels."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobs.errors import UsageError
from jobs.policy.safety_label_thresholds import LABELS, Thresholds, threshold
from jobs.policy.safety_thresholds import CARE, CONCEPT, normalised, thousandths_of

_SHOWN = 80


class FileThresholds(NamedTuple):
    """What is `added` to the safety checker's scores, as the batch policy has it, and the thresholds of `labels`."""

    added: str | None
    labels: Thresholds


def thresholds_of_file(name: str, text: str, names: Sequence[str] = ()) -> FileThresholds:
    """Parse a file's text.

    It holds `all`, a table `concepts` and a table `special_care`, each of numbers by the concept's number, or its name
    of `names`, those of the first concepts; and a table `labels` with one table a checker, of numbers by label. Raises
    UsageError that names the file, the place and what there is.
    """
    values = _parsed(name, text)
    labels = values.pop(LABELS, {})
    return FileThresholds(_added(name, values, names), _labels(name, labels))


def _added(name: str, values: dict[str, Any], names: Sequence[str]) -> str | None:
    numbers: dict[str, str] = {concept: str(number) for number, concept in enumerate(names)}
    named = "".join(f"; {number} is {concept!r}" for concept, number in numbers.items())
    entries: list[tuple[str, str, Any]] = []
    for key, value in values.items():
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
                f"{name}: {_excerpt(key)}: write `all = NUMBER`, or tables [{CONCEPT}], [{CARE}] and [{LABELS}.CHECKER]"
            )
    for place, concept, value in entries:
        where = f"{name}: {_excerpt(place)}"
        thousandths_of(concept, _number(value, where), where, named)
        if [other for _, other, _ in entries].count(concept) > 1:
            raise UsageError(f"{where}: concept {concept} is given twice, by its name and its number")
    return normalised(",".join(f"{concept}={value}" for _, concept, value in entries))


def _labels(name: str, tables: Any) -> Thresholds:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{name}: {LABELS}: write one table a checker: [{LABELS}.CHECKER]")
    return {
        checker: {
            label: threshold(value, f"{name}: {_excerpt(f'{LABELS}.{checker}.{label}')}")
            for label, value in table.items()
        }
        for checker, table in tables.items()
    }


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where}: {_excerpt(_as_json(value))} is no number")
    return value


def _parsed(name: str, text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - only commands that are given a file need it

    is_json = text.lstrip().startswith("{")
    try:
        values = json.loads(text) if is_json else tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{name}: tables are nested too deeply") from None
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
