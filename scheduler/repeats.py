"""Values that come again in a manifest, found by their hashes: sixteen bytes a row."""

from array import array
from collections.abc import Hashable

import numpy as np


class Repeats:
    """Remembers values and their lines; beyond `limit` values none is looked at."""

    def __init__(self, limit: int = 10_000_000) -> None:
        self._limit = limit
        self._hashes = array("q")
        self._lines = array("q")

    def add(self, value: Hashable, line: int) -> None:
        """A value of a line."""
        if len(self._hashes) < self._limit:
            self._hashes.append(hash(value))
            self._lines.append(line)

    def lines(self) -> list[int]:
        """The line of each value that stood on an earlier line, or earlier on its own, in order."""
        if not self._hashes:
            return []
        hashes = np.frombuffer(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        found: list[int] = np.frombuffer(self._lines, np.int64)[np.sort(again)].tolist()
        return found
