"""Parquet files of a few kilobytes that would unpack to gigabytes."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 600
_MOST_MB = 320
_READ = """
import resource, sys
from jobs.manifest import Reject, open_source, read_rows
from jobs.errors import ManifestError
from tests.jobs.manifest.helpers import rules
import pyarrow.parquet
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base = peak()
try:
    with open_source(sys.argv[1]) as manifest:
        told = {item.reason if isinstance(item, Reject) else "a row" for item in read_rows(manifest, rules())}
except ManifestError as error:
    told = {str(error)}
print(round(peak() - base), *told)
"""


def _repeated(text: str, rows: int = ROWS) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def _lists(lengths: Sequence[int], values: Any) -> Any:
    return pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), values)


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "dictionary": (lambda: _repeated("y" * 2_000_000), {}, "x holds over 1,048,576 bytes"),
    "dictionary-below-the-limit": (lambda: _repeated("y" * 1_000_000, 100), {}, "a row"),
    "deltas": (
        lambda: pa.array(["y" * 1_000_000 + str(number) for number in range(100)]),
        {"use_dictionary": False, "column_encoding": {"x": "DELTA_BYTE_ARRAY", "prompt": "PLAIN"}},
        "a row",
    ),
    "pages": (
        lambda: _repeated("y" * 1_500_000, 100).cast(pa.string()),
        {"use_dictionary": False},
        "has pages of over 128 MiB together, up to column x",
    ),
    "list": (
        lambda: _lists([9_000_000, 1], pa.array(np.zeros(9_000_001, np.int8))),
        {},
        "has a page of 9,000,000 values in column x",
    ),
    "lists": (
        lambda: _lists([200_000] * 40, pa.array(np.zeros(8_000_000, np.int8))),
        {},
        "x holds over 1,048,576 bytes",
    ),
    "lists-of-texts": (
        lambda: _lists([100] * 40, _repeated("y" * 100_000, 4_000)),
        {},
        "x holds over 1,048,576 bytes",
    ),
    "list-of-nothing": (lambda: _lists([300_000, 1], pa.nulls(300_001)), {}, "x holds over 1,048,576 bytes"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_small_file_takes_little_memory_whatever_it_unpacks_to(tmp_path: Path, case: str) -> None:
    make, options, words = CASES[case]
    column = make()
    path = tmp_path / "m.parquet"
    table = pa.table({"prompt": ["a fox"] * len(column), "x": column})
    pq.write_table(table, path, compression="zstd", store_schema=False, **options)
    assert path.stat().st_size < 2**20
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True
    )
    megabytes, _, told = done.stdout.partition(" ")
    assert words.removeprefix("x ") in told
    assert int(megabytes) < _MOST_MB


def _plain(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_every_type_is_read_with_dictionaries_as_without(tmp_path: Path) -> None:
    from tests.jobs.manifest.helpers import read_bytes

    texts = ["é" * 10, None, "b", "b"]
    columns = {
        "prompt": pa.array(["fox", "owl", "fox", "cat"]),
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "words": pa.array([["a", "b"], [], None, [None]], pa.list_(pa.string())),
        "fixed": pa.array([["a", "b"], None, ["c", "d"], ["e", None]], pa.list_(pa.string(), 2)),
        "map": pa.array([[("k", "v")], [], None, [("a", None)]], pa.map_(pa.string(), pa.string())),
        "both": pa.array([{"a": "x", "b": [1]}, None, {"a": None, "b": None}, {"a": "", "b": []}]),
        "class": pa.array(["u", "v", None, "u"]).dictionary_encode(),
        "cost": pa.array([1, None, 2, 3], pa.decimal128(30, 2)),
        "nothing": pa.nulls(4),
    }
    made = read_bytes(tmp_path, "m.parquet", _plain(**columns))
    for row, number in zip(made, range(4), strict=True):
        for name in ("large", "view", "words", "fixed", "both", "class", "nothing"):
            assert row.meta[name] == columns[name][number].as_py()  # type: ignore[union-attr]
    assert [row.meta["cost"] for row in made] == ["1.00", None, "2.00", "3.00"]  # type: ignore[union-attr]


def test_row_groups_of_any_number_come_in_order(tmp_path: Path) -> None:
    from tests.jobs.manifest.helpers import read

    path = tmp_path / "m.parquet"
    texts = [f"fox {number}" * (1 + 5_000 * (number // 500 % 2)) for number in range(3_000)]
    pq.write_table(pa.table({"prompt": ["a"] * 3_000, "x": texts}), path, row_group_size=500)
    assert [row.meta["x"] for row in read(path)] == texts  # type: ignore[union-attr]


def test_texts_in_lists_of_several_row_groups(tmp_path: Path) -> None:
    from tests.jobs.manifest.helpers import read

    path = tmp_path / "m.parquet"
    rows = [{"a": "b", "c": [str(number % 3), None]} for number in range(40)]
    pq.write_table(pa.table({"prompt": ["a"] * 40, "x": rows}), path, row_group_size=4)
    assert [row.meta["x"] for row in read(path)] == rows  # type: ignore[union-attr]
