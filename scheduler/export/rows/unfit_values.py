"""Values that the type of their column has no room for: counted by column, with the first row that has one."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

Report = Mapping[str, Mapping[str, Any]]
"""By column: `values`, their number, and `row_id` and `ordinal` of the first row that has one."""


class UnfitValues:
    """Counts what is null in a file, because its column has another type."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}

    def __getitem__(self, column: str) -> int:
        """Return the number of a column's values."""
        found = self._found.get(column)
        return int(found["values"]) if found else 0

    def add(self, column: str, images: pa.RecordBatch, row: int) -> None:
        """Count a value of a column, in a row of a batch of image rows."""
        if column not in self._found:
            first = {name: images.column(name)[row].as_py() for name in ("row_id", "ordinal")}
            self._found[column] = {"values": 0, **first}
        self._found[column]["values"] += 1

    def counts(self) -> dict[str, int]:
        """Return the numbers of values by column, sorted."""
        return {column: found["values"] for column, found in sorted(self._found.items())}

    @property
    def report(self) -> Report:
        """Return the numbers and first rows by column; empty if every value fitted."""
        return {column: dict(found) for column, found in sorted(self._found.items())}


def summed(reports: Iterable[Report]) -> Report:
    """Return the sums of reports, in whose order the first row of each column is found."""
    found: dict[str, dict[str, Any]] = {}
    for report in reports:
        for column, one in report.items():
            if column in found:
                found[column]["values"] += one["values"]
            else:
                found[column] = dict(one)
    return dict(sorted(found.items()))
