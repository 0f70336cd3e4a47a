"""One value of a row: read, or refused with a reason."""

import math
import re
import reprlib
from collections.abc import Iterable
from typing import Any

from jobs.errors import NightmillError

SURROGATE = re.compile("[\ud800-\udfff]")
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
MAX_DEPTH = 64
EXACT_FLOAT = 2**53
_WHOLE = re.compile(r"([+-]?[0-9]{1,30})(?:\.0*)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_SHORT = reprlib.Repr()
PLAIN_TYPES = frozenset({str, int, bool, type(None)})


class ProblemError(NightmillError):
    """A value that a row can't have; becomes a Reject."""

    def __init__(self, column: str | None, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


def printable(text: str, limit: int = 200) -> str:
    """At most `limit` characters of `text`, with what can't be printed written as an escape."""
    head = text[: limit + 1]
    if not head.isprintable():
        head = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    return head if len(head) <= limit else head[: limit - 1] + "…"


def shown(value: object) -> str:
    """A value as a message quotes it: short, printable, text in quotes."""
    if isinstance(value, str):
        return f"'{printable(value, 60)}'"
    return printable(_SHORT.repr(value), 60)


def missing(value: object) -> bool:
    """Whether a cell says nothing: absent, null or blank."""
    return value is None or (isinstance(value, str) and not value.strip())


def whole_number(column: str, value: object, low: int, high: int) -> int:
    """An integer in [low, high] from a number or its text; `512.0` is one, `True` and `5,5` are not."""
    number = _whole(value)
    if number is None:
        raise ProblemError(column, f"{column} must be a whole number, not {shown(value)}")
    if not low <= number <= high:
        raise ProblemError(column, f"{column} must be {low} to {high}, not {shown(number)}")
    return number


def decimal_number(column: str, value: object, low: float, high: float) -> float:
    """A finite float in [low, high] from a number or its text."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; write the decimals after a point" if isinstance(value, str) and "," in value else ""
        raise ProblemError(column, f"{column} must be a number, not {shown(value)}{hint}")
    if not low <= value <= high:
        raise ProblemError(column, f"{column} must be {low:g} to {high:g}, not {shown(value)}")
    return float(value) + 0.0


def free_text(column: str, value: object, limit: int) -> str:
    """Text of at most `limit` characters, unchanged; whole numbers are taken as their digits."""
    if type(value) is str and len(value) <= limit:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ProblemError(column, f"{column} must be text, not {shown(value)}")
    if len(value) > limit:
        raise ProblemError(column, f"{column} has {len(value):,} characters; at most {limit:,} are allowed")
    return value


def check_storable(values: dict[str, Any]) -> None:
    """Refuse what PostgreSQL can't store as text or jsonb, in keys and values at any depth."""
    for column, value in values.items():
        _check(column, column, 0)
        _check(column, value, 0)


def are_plain(types: Iterable[type]) -> bool:
    """Whether `check_meta` takes all values of these types."""
    return PLAIN_TYPES.issuperset(types)


def check_meta(meta: dict[str, Any]) -> None:
    """Refuse NaN, infinities and excessive depth; strings are taken as checked."""
    for column, value in meta.items():
        _check(column, value, 0)


def _check(column: str, value: object, depth: int) -> None:
    if isinstance(value, str):
        if bad := NOT_STORABLE.search(value):
            kind = "a NUL character" if bad[0] == "\0" else "half of a surrogate pair"
            raise ProblemError(column, f"holds {kind}, which can't be stored; remove it")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ProblemError(column, f"{value} is not a number that JSON has; use null")
    elif isinstance(value, list | dict):
        if depth == MAX_DEPTH:
            raise ProblemError(column, f"is nested more than {MAX_DEPTH} levels deep")
        for part in value if isinstance(value, list) else [*value.keys(), *value.values()]:
            _check(column, part, depth + 1)


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value.strip())
        return int(match[1]) if match else None
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_FLOAT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
