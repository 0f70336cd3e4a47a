"""Splits of a dataset: a row's split follows from its id alone, so that it stays in it when the batch grows."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import pyarrow as pa

Split = tuple[str, float]

DEFAULT: Sequence[Split] = (("train", 1.0),)


def splits_of(rows: pa.RecordBatch, splits: Sequence[Split]) -> list[str]:
    """Return each image row's split: by a hash of its id in the manifest, else of its batch and its ordinal."""
    names = [name for name, _ in splits]
    ends = list(accumulate(share for _, share in splits))[:-1]
    keys = zip(*(rows.column(name).to_pylist() for name in ("row_id", "batch", "ordinal")), strict=True)
    return [names[bisect_right(ends, _share(*key))] for key in keys]


def _share(row_id: str | None, batch: str, ordinal: int) -> float:
    """Return a number in [0, 1) that is evenly distributed over rows."""
    text = f"id {row_id}" if row_id is not None else f"row {batch} {ordinal}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def parts(rows: pa.RecordBatch, splits: Sequence[Split]) -> dict[str, pa.Array]:
    """Return the numbers of the rows in each split that has any."""
    found: dict[str, list[int]] = {}
    for number, split in enumerate(splits_of(rows, splits)):
        found.setdefault(split, []).append(number)
    return {split: pa.array(numbers, pa.int64()) for split, numbers in found.items()}
