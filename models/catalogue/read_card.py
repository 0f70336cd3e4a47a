"""Read a card from its TOML file, or make one of values; what is wrong with it is said in its own words."""

import reprlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.catalogue.card import Card
from models.catalogue.limited_files import read_toml
from models.catalogue.nearest_name import nearest
from models.errors import ModelError

_SHOWN = 3
_UNKNOWN = "extra_forbidden"  # told first, as a misspelt field is a missing one, too
_EXPECTED = {
    int: "a positive whole number",
    float: "a number of 0 or more",
    tuple[str, ...]: "a list of texts",
}


def read_card(path: Path) -> Card:
    """Read one card. Raises ModelError naming the file and the invalid fields."""
    try:
        table = read_toml(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read as TOML: {error}") from error
    return make_card(table, str(path))


def make_card(values: Mapping[str, object], origin: str) -> Card:
    """Make a card of the values of its fields. Raises ModelError naming the origin and the invalid fields."""
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        found = sorted(error.errors(include_url=False), key=lambda one: one["type"] != _UNKNOWN)
    problems = [_problem(one, values) for one in found]
    more = len(problems) - _SHOWN
    told = "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    raise ModelError(f"{origin}: {told}")


def _problem(error: ErrorDetails, values: Mapping[str, object]) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"the field {name!r} is missing"
    if error["type"] == _UNKNOWN:
        return f"unknown field {reprlib.repr(name)}{_suggestion(name)}"
    if error["type"] == "literal_error":
        return f"{name} = {_short(values[name])} is not one of {error['ctx']['expected']}"
    expected = _EXPECTED.get(Card.model_fields[name].annotation, "a text")  # type: ignore[arg-type]
    return f"{name} = {_short(values[name])} is not {expected}"


def _suggestion(name: str) -> str:
    near = nearest(name, Card.model_fields)
    return f"; did you mean {near!r}?" if near else ""


def _short(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"
