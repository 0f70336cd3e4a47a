"""Parse YAML into a tree of nodes with line and column, for error messages about recipes.

Plain scalars follow YAML 1.2's core schema: `no`, `on` and `1:30` are text, `010` is ten.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from jobs.errors import ManifestError
from jobs.manifest.values import MAX_DEPTH, NOT_STORABLE, SURROGATE, shown

_MAX_DIGITS = 100
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Node:
    """A YAML node: a text, number, boolean, None, list of nodes, or mapping; line and column count from 1."""

    value: "str | int | float | bool | list[Node] | dict[str, tuple[Node, Node]] | None"
    label: str
    line: int
    column: int

    def error(self, reason: str) -> ManifestError:
        """Return a ManifestError with file, line and column."""
        return ManifestError(f"{self.label}:{self.line}:{self.column}: {reason}.")

    def plain(self) -> Any:
        """Return the value as plain JSON types, without positions."""
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        if isinstance(self.value, dict):
            return {name: node.plain() for name, (_, node) in self.value.items()}
        return self.value

    @property
    def text(self) -> str:
        """The text of a key."""
        assert isinstance(self.value, str)
        return self.value

    def pairs(self, what: str) -> "Pairs":
        """Return the keys and values of a mapping; ManifestError for other nodes."""
        if not isinstance(self.value, dict):
            raise self.error(f"{what} has to be a mapping, written as 'key: value'")
        return list(self.value.values())

    def distinct(self, what: str) -> "list[Node]":
        """Return the values of a list; ManifestError if it is empty or has duplicates."""
        assert isinstance(self.value, list)
        if not self.value:
            raise self.error(f"{what} has no values")
        lines: dict[str, int] = {}
        for node in self.value:
            text = repr(node.plain())
            if text in lines:
                raise node.error(
                    f"{what} has {shown(node.plain())} twice, first on line {lines[text]}; keep one"
                )
            lines[text] = node.line
        return self.value

    def distinct_scalars(self, what: str) -> list[Any]:
        """Return the plain values of such a list; ManifestError if one is a list or mapping."""
        for node in self.distinct(what):
            if isinstance(node.value, list | dict):
                raise node.error(f"{what} takes single values, no list or mapping")
        return [node.value for node in self.distinct(what)]


Pairs = list[tuple[Node, Node]]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A YAML loader whose plain scalars get the types of the core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way


class _Composer(_Loader):
    """A composer that refuses anchors, aliases and deep nesting, which could exhaust memory or the stack."""

    def __init__(self, text: str, label: str) -> None:
        super().__init__(text)
        self._label = label
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and its children."""
        event = self.peek_event()
        place = Node(None, self._label, event.start_mark.line + 1, event.start_mark.column + 1)
        if event.anchor is not None:
            raise place.error(
                "anchors (&) and aliases (*) are not read; write it out, or put quotes around the text"
            )
        if self._depth >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            raise place.error(f"is nested more than {MAX_DEPTH} levels deep; flatten it")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(_PREFIX + _tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def read_yaml(text: str, label: str) -> Node:
    """Parse a single YAML document; ManifestError with line and column if it isn't well formed.

    Anchors, aliases, tags and duplicate keys are refused.
    """
    try:
        root = _Composer(text, label).get_single_node()
        if root is not None:
            return _node(root, label)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ManifestError(f"{label}{place}: is not YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{label}: is not YAML: {' '.join(str(error).split())}.") from None
    raise ManifestError(f"{label}: is empty; it needs at least the key 'prompts'.")


def _node(raw: Any, label: str) -> Node:
    empty = Node(None, label, raw.start_mark.line + 1, raw.start_mark.column + 1)
    kind = raw.tag.removeprefix(_PREFIX)
    if isinstance(raw, yaml.MappingNode) and kind == "map":
        value: Any = dict(_pairs(raw, label))
    elif isinstance(raw, yaml.SequenceNode) and kind == "seq":
        value = [_node(part, label) for part in raw.value]
    elif isinstance(raw, yaml.ScalarNode):
        value = _scalar(kind, raw.value, empty)
    else:
        raise empty.error(f"the tag {shown(raw.tag)} is not read; leave it out")
    return Node(value, label, empty.line, empty.column)


def _pairs(raw: Any, label: str) -> Iterator[tuple[str, tuple[Node, Node]]]:
    lines: dict[str, int] = {}
    for raw_key, raw_value in raw.value:
        key = Node(None, label, raw_key.start_mark.line + 1, raw_key.start_mark.column + 1)
        if not isinstance(raw_key, yaml.ScalarNode):
            raise key.error("a key has to be a text")
        name = _text(raw_key.value, key)
        key = replace(key, value=name)
        if name in lines:
            raise key.error(f"has the key {shown(name)} twice, first on line {lines[name]}; keep one")
        lines[name] = key.line
        yield name, (key, _node(raw_value, label))


def _scalar(kind: str, text: str, place: Node) -> str | int | float | bool | None:
    text = _text(text, place)
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" | "float":
            return _number(kind, text, place)
    raise place.error(f"the tag {shown(kind)} is not read; leave it out")


def _text(text: str, place: Node) -> str:
    if SURROGATE.search(text):
        # JSON writes characters beyond 16 bits as two escapes (a surrogate pair), which PyYAML doesn't join.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if NOT_STORABLE.search(text):
        raise place.error("holds a NUL character or half of a surrogate pair, which can't be stored")
    return text


def _number(kind: str, text: str, place: Node) -> int | float:
    try:
        number: int | float = int(text) if kind == "int" and len(text) <= _MAX_DIGITS else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (kind == "int" and len(text) > _MAX_DIGITS):
        raise place.error(f"{shown(text)} is no number that can be used; put quotes around a text")
    return number
