"""Parse a recipe's variables: a list of values, weights by value, or the lines of a file (`#` starts a comment)."""

from collections.abc import Callable
from typing import Any

from jobs.manifest.formats.dispatch import read_file_records
from jobs.manifest.raw_record import Broken
from jobs.manifest.recipe.recipe import Value, Variable
from jobs.manifest.recipe.yaml_nodes import Node
from jobs.manifest.types import ManifestFile
from jobs.manifest.values import shown

MAX_VALUES = 1_000_000
MAX_TEXT = 2**26


def read_variable(name: str, node: Node, open_lines: Callable[[Node], ManifestFile]) -> Variable:
    """Parse the variable `name` from `node`; `open_lines` opens the file that it names. Raises ManifestError."""
    if isinstance(node.value, list):
        return Variable(name, tuple(_value(part, name) for part in node.distinct(name)))
    if not isinstance(node.value, dict):
        raise node.error(f"{name} has to be a list of values, {{value: weight, …}} or {{file: lines.txt}}")
    pairs = node.pairs(name)
    if [key.text for key, _ in pairs] == ["file"] and isinstance(pairs[0][1].value, str):
        return Variable(name, _lines(pairs[0][1], open_lines(pairs[0][1])))
    if not pairs:
        raise node.error(f"{name} has no values")
    return Variable(
        name, tuple(_value(key, name) for key, _ in pairs), tuple(_weight(part) for _, part in pairs)
    )


def _value(node: Node, name: str) -> Value:
    value: Any = node.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise node.error(
            f"a value of {name} is text or a number, not {shown(node.plain())}; put quotes around it"
        )
    return value


def _weight(node: Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e100:
        raise node.error(f"a weight is a number above 0, not {shown(node.plain())}")
    return float(value)


def _lines(node: Node, file: ManifestFile) -> tuple[str, ...]:
    found: dict[str, int] = {}
    length = 0
    for record in read_file_records(file, {}):
        if isinstance(record, Broken):
            raise node.error(f"{file.label}, line {record.line}: {record.reason}")
        line = record.values["prompt"].strip()
        if line.startswith("#"):
            continue  # a comment, as in the wildcard files of other tools; \\# escapes a leading #
        line = line.removeprefix("\\") if line.startswith("\\#") else line
        if line in found:
            raise node.error(
                f"{file.label}, line {record.line}: {shown(line)} stands on line {found[line]} already"
            )
        if record.suspect:
            raise node.error(f"{file.label}, line {record.line}: holds a NUL character; remove it")
        found[line] = record.line
        length += len(line)
        if len(found) > MAX_VALUES or length > MAX_TEXT:
            raise node.error(
                f"{file.label}: has over {MAX_VALUES:,} lines or {MAX_TEXT >> 20} MiB; make it the file of prompts"
            )
    if not found:
        raise node.error(f"{file.label}: has no lines with text")
    return tuple(found)
