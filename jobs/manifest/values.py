"""Parse and check single values of a row; ProblemError gives the reason for a refusal."""

import math
import re
import reprlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from jobs.errors import NightmillError

SURROGATE = re.compile("[\ud800-\udfff]")
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
MAX_DEPTH = 64
EXACT_FLOAT = 2**53
_WHOLE = re.compile(r"([+-]?[0-9]{1,30})(\.0*)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_SHORT = reprlib.Repr()
_BLANK_SYMBOLS = "\u115f\u1160\u2800\u3164\uffa0"
PLAIN_TYPES = frozenset({str, int, bool, type(None)})


class ProblemError(NightmillError):
    """An invalid value in a row; becomes a Reject."""

    def __init__(self, column: str | None, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


def printable(text: str, limit: int = 200) -> str:
    """Return at most `limit` characters of `text`, with non-printable characters escaped."""
    head = text[: limit + 1]
    if not head.isprintable():
        head = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    return head if len(head) <= limit else head[: limit - 1] + "…"


def shown(value: object) -> str:
    """Format a value for a message: short, printable, text in quotes."""
    if isinstance(value, str):
        return f"'{printable(value, 60)}'"
    return printable(_SHORT.repr(value), 60)


def missing(value: object) -> bool:
    """Whether a cell has no value: absent, null or blank."""
    return value is None or (isinstance(value, str) and not value.strip())


def is_visible(text: str) -> bool:
    """Whether `text` has a visible character: no space, control or format character, mark or blank symbol."""
    if text[:1].isascii() and text[:1].isalnum():
        return True
    return any(
        unicodedata.category(character)[0] not in "CMZ" and character not in _BLANK_SYMBOLS
        for character in text
    )


def whole_number(column: str, value: object, low: int, high: int) -> int:
    """Parse an integer in [low, high] from a number or text; accepts `512.0`, refuses `True` and `5,5`.

    Floats of 2**53 or more are refused, as they may be rounded from several whole numbers.
    """
    number = _whole(column, value)
    if number is None:
        raise ProblemError(column, f"{column} must be a whole number, not {shown(value)}")
    if not low <= number <= high:
        hint = "; leave it empty for any seed" if column == "seed" and number == -1 else ""
        raise ProblemError(column, f"{column} must be {low} to {high}, not {shown(number)}{hint}")
    return number


def decimal_number(column: str, value: object, low: float, high: float) -> float:
    """Parse a finite float in [low, high] from a number or text."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; write the decimals after a point" if isinstance(value, str) and "," in value else ""
        raise ProblemError(column, f"{column} must be a number, not {shown(value)}{hint}")
    if not low <= value <= high:
        raise ProblemError(column, f"{column} must be {low:g} to {high:g}, not {shown(value)}")
    return float(value) + 0.0


def free_text(column: str, value: object, limit: int) -> str:
    """Return text of at most `limit` characters unchanged; whole numbers become their digits, `7.0` becomes 7."""
    if type(value) is str and len(value) <= limit:
        return value
    if isinstance(value, int | float) and (number := _whole(column, value)) is not None:
        value = str(number)
    if not isinstance(value, str):
        raise ProblemError(column, f"{column} must be text, not {shown(value)}")
    if len(value) > limit:
        raise ProblemError(column, f"{column} has {len(value):,} characters; at most {limit:,} are allowed")
    return value


def check_storable(values: dict[str, Any]) -> None:
    """Raise ProblemError for anything PostgreSQL can't store as text or jsonb, in keys and values at any depth."""
    for column, value in values.items():
        _check(column, column, 0)
        _check(column, value, 0)


def are_plain(types: Iterable[type]) -> bool:
    """Whether `check_meta` accepts all values of these types."""
    return PLAIN_TYPES.issuperset(types)


def check_meta(meta: dict[str, Any]) -> None:
    """Raise ProblemError for NaN, infinities, excessive depth and text that can't be stored."""
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


def _whole(column: str, value: object) -> int | None:
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value.strip())
        if match is None:
            return None
        if match[2]:
            _check_exact(column, value, int(match[1]))
        return int(match[1])
    if isinstance(value, float):
        if not value.is_integer():
            return None
        _check_exact(column, value, value)
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _check_exact(column: str, value: object, number: float) -> None:
    """Raise ProblemError for floats of 2**53 or more: pandas writes integers in a column with gaps as floats."""
    if abs(number) >= EXACT_FLOAT:
        raise ProblemError(
            column,
            f"{column} {shown(value)} is a float of 2**53 or more, which is no exact whole number: "
            "store the column as integers or text",
        )
