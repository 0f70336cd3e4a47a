"""Raw records of a manifest, before their values are validated, and their shapes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from jobs.manifest.values import PLAIN_TYPES

K = TypeVar("K")
V = TypeVar("V")

_MAX_SHAPES = 1000
_MAX_WEIGHT = 8 << 20


class Shape:
    """The column names and value types of a record, in order; shared by many records.

    `doubtful` columns hold values other than text, whole numbers, booleans and null. `quotes` is the number of
    quotation marks in the JSON of such a record if none is escaped; None if there are doubtful columns. `weight` is the
    approximate size in bytes of a cache entry.
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
    """A cache keyed by shape; cleared when it has many or large entries, as when each row has its own keys."""

    _weight = 0

    def remember(self, key: K, value: V, shape: Shape) -> V:
        """Store a value and return it."""
        if len(self) >= _MAX_SHAPES or self._weight > _MAX_WEIGHT:
            self.clear()
            self._weight = 0
        self._weight += shape.weight
        self[key] = value
        return value


class Shapes:
    """Interns shapes: records of the same shape get the same object, which can serve as a cache key."""

    def __init__(self) -> None:
        self._known: ByShape[tuple[object, ...], Shape] = ByShape()

    def of(self, values: Mapping[str, Any]) -> Shape:
        """Return the shape of a record."""
        key = (*values, *map(type, values.values()))
        return self._known.get(key) or self._add(key)

    def _add(self, key: tuple[Any, ...]) -> Shape:
        half = len(key) // 2
        shape = Shape(key[:half], key[half:])
        return self._known.remember(key, shape, shape)


class Record(NamedTuple):
    """A record: values by column name. `raw` is for excerpts; `suspect`: it may have text that can't be stored.

    Records with the same `seed_ordinal` derive the same seeds; None: the record has seeds of its own. Readers set
    `shape` if they know it.
    """

    line: int
    values: dict[str, Any]
    raw: object
    suspect: bool
    seed_ordinal: int | None = None
    shape: Shape | None = None


@dataclass(frozen=True)
class Broken:
    """A record that can't be read, with the reason."""

    line: int
    reason: str
    raw: object
    column: str | None = None


Records = Iterator[Record | Broken]
