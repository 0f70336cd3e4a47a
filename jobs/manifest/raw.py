"""A row as it stands in the file, before its values are looked at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Record(NamedTuple):
    """Values by column name; `raw` is for excerpts; `suspect`: there may be text that can't be stored.

    Records with the same `seed_ordinal` derive the same seeds; None: this one has seeds of its own.
    """

    line: int
    values: dict[str, Any]
    raw: object
    suspect: bool
    seed_ordinal: int | None = None


@dataclass(frozen=True)
class Broken:
    """A record that can't be read at all."""

    line: int
    reason: str
    raw: object
    column: str | None = None


Records = Iterator[Record | Broken]
