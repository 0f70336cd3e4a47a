"""A row as it stands in the file, before its values are looked at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from jobs.manifest.values import PLAIN_TYPES

K = TypeVar("K")
V = TypeVar("V")

_MAX_SHAPES = 1000
_MAX_WEIGHT = 8 << 20


class Shape:
    """What many records have in common: the names of their columns and the types of their values, in order.

    `doubtful` columns hold other things than text, whole numbers, booleans and null. `quotes` is how many quotation
    marks the JSON of such a record has if none is escaped; None where there are doubtful columns. `weight` is roughly
    what it takes to remember it, in bytes.
    """

    __slots__ = ("doubtful", "names", "quotes", "types", "weight")

    def __init__(self, names: tuple[str, ...], types: tuple[type, ...]) -> None:
        self.names = names
        self.types = types
        pairs = zip(names, types, strict=True)
        self.doubtful = tuple(name for name, kind in pairs if kind not in PLAIN_TYPES)
        self.quotes = None if self.doubtful else 2 * (len(names) + types.count(str))
        self.weight = sum(map(len, names)) + 64 * len(names)


class ByShape(dict[K, V]):
    """What is remembered by shapes; forgotten when there are many or large ones, as where each row has its own keys."""

    _weight = 0

    def remember(self, key: K, value: V, shape: Shape) -> V:
        """Keep a value, which is returned."""
        if len(self) >= _MAX_SHAPES or self._weight > _MAX_WEIGHT:
            self.clear()
            self._weight = 0
        self._weight += shape.weight
        self[key] = value
        return value


class Shapes:
    """Gives all records of the same shape the same object, so that others can remember things by it."""

    def __init__(self) -> None:
        self._known: ByShape[tuple[object, ...], Shape] = ByShape()

    def of(self, values: Mapping[str, Any]) -> Shape:
        """The shape of a record."""
        key = (*values, *map(type, values.values()))
        return self._known.get(key) or self._add(key)

    def _add(self, key: tuple[Any, ...]) -> Shape:
        half = len(key) // 2
        shape = Shape(key[:half], key[half:])
        return self._known.remember(key, shape, shape)


class Record(NamedTuple):
    """Values by column name; `raw` is for excerpts; `suspect`: there may be text that can't be stored.

    Records with the same `seed_ordinal` derive the same seeds; None: this one has seeds of its own. A reader that
    knows the `shape` of the values says it.
    """

    line: int
    values: dict[str, Any]
    raw: object
    suspect: bool
    seed_ordinal: int | None = None
    shape: Shape | None = None


@dataclass(frozen=True)
class Broken:
    """A record that can't be read at all."""

    line: int
    reason: str
    raw: object
    column: str | None = None


Records = Iterator[Record | Broken]
