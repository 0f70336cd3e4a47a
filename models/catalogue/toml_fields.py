"""Read a TOML file into the fields of a dataclass, with strict type checks."""

import dataclasses
import difflib
import reprlib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from models.catalogue.limited_files import read_toml
from models.errors import ModelError

_UNIONS = (Union, types.UnionType)


def read_fields(path: Path, into: type) -> dict[str, Any]:
    """Return the fields of `path` for the dataclass `into`, type-checked; lists become tuples.

    Raises ModelError with the file and the field for an unreadable file, or an unknown, missing or invalid field.
    """
    try:
        table = read_toml(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read as TOML: {error}") from error
    hints = get_type_hints(into)
    for name in table:
        if name not in hints:
            raise ModelError(f"{path}: unknown field {reprlib.repr(name)}{_suggestion(name, list(hints))}")
    for declared in dataclasses.fields(into):
        if declared.default is dataclasses.MISSING and declared.name not in table:
            raise ModelError(f"{path}: the field {declared.name!r} is missing")
    return {name: _typed(path, name, value, hints[name]) for name, value in table.items()}


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _typed(path: Path, name: str, value: object, hint: Any) -> object:
    if get_origin(hint) is tuple and isinstance(value, list):
        value = tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and hint is float and abs(value) < 2**53:
        value = float(value)
    if not _fits(value, hint):
        raise ModelError(f"{path}: {name} = {_short(value)} is not {_words(hint)}")
    return value


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in _UNIONS:
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    if hint is float:
        return isinstance(value, float) and 0 <= value < float("inf")
    return isinstance(value, hint)


def _short(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"


def _words(hint: Any) -> str:
    if get_origin(hint) in _UNIONS:
        return " or ".join(_words(option) for option in get_args(hint) if option is not types.NoneType)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(hint))
    names = {int: "a positive whole number", float: "a number of 0 or more", str: "a text"}
    return names.get(hint, "a list of texts")
