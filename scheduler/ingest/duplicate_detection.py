"""Finds repeated values in a manifest by their hashes, in twelve bytes per value."""

from array import array
from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

SHOWN = 20
_LAST_LINE = 2**32 - 1
_AT_ONCE = 2**20
_FEW = 2**16


class Repeated(NamedTuple):
    """The number of repeated values, and the first of their lines."""

    number: int = 0
    lines: tuple[int, ...] = ()


class Repeats:
    """Stores hashes of values with their lines; values beyond the first `limit` are ignored."""

    def __init__(self, limit: int = 10_000_000) -> None:
        self._limit = limit
        self._hashes = array("q")
        self._lines = array("I")

    def add(self, value: Hashable, line: int) -> None:
        """Add a value and its line."""
        if len(self._hashes) < self._limit:
            self._hashes.append(hash(value))
            self._lines.append(min(line, _LAST_LINE))

    @property
    def is_full(self) -> bool:
        """Whether further values are ignored."""
        return len(self._hashes) >= self._limit

    def found(self) -> Repeated:
        """Return the number and lines of the values that occurred before."""
        if len(self._hashes) < _FEW and len(set(self._hashes)) == len(self._hashes):
            return Repeated()
        import numpy as np  # noqa: PLC0415 - takes a tenth of a second to import; few manifests need it

        again = self._are_again(np.frombuffer(self._hashes, np.int64))
        lines = np.frombuffer(self._lines, np.uint32)
        places: list[int] = []
        for start in range(0, len(again), _AT_ONCE):
            part = np.flatnonzero(again[start : start + _AT_ONCE])
            places += (start + part[: SHOWN - len(places)]).tolist()
        return Repeated(int(again.sum()), tuple(lines[places].tolist()))

    def _are_again(
        self, hashes: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    ) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        import numpy as np  # noqa: PLC0415

        again = np.zeros(len(hashes), np.bool_)
        order = np.argsort(hashes, kind="stable")
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE + 1]
            same = hashes[part[1:]] == hashes[part[:-1]]
            again[part[1:][same]] = True
        return again
