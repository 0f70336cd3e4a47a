import datetime as dt
import gzip
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs.errors import ManifestError
from jobs.manifest import Reject, Row
from tests.jobs.manifest.helpers import only_reject, only_row, read, rules


def write(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "m.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_rows_come_in_order_with_their_types(tmp_path: Path) -> None:
    numbers = list(range(5_000))
    columns = {
        "Prompt": [f"fox {n}" for n in numbers],
        "steps": pa.array([n % 50 + 1 for n in numbers], pa.int8()),
        "seed": pa.array([2**64 - 1 - n for n in numbers], pa.uint64()),
        "guidance_scale": pa.array([2.5 for _ in numbers], pa.float32()),
        "label": pa.array(["cat", None] * 2_500).dictionary_encode(),
        "count": numbers,
    }
    items = read(write(tmp_path, columns, row_group_size=700))
    assert [item.ordinal for item in items] == numbers
    last = items[-1]
    assert isinstance(last, Row)
    assert (last.line, last.prompt, last.steps, last.seed) == (5_000, "fox 4999", 50, 2**64 - 5_000)
    assert last.guidance_scale == 2.5
    assert last.meta == {"label": None, "count": 4_999}


def test_other_types_become_json(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 2, 29, 1, 2, 3, 4, dt.UTC)
    columns = {
        "prompt": ["a"],
        "steps": pa.array([Decimal("20.00")]),
        "at": pa.array([moment], pa.timestamp("us", "UTC")),
        "nanos": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "day": [moment.date()],
        "price": pa.array([Decimal("1.10")]),
        "lasts": [dt.timedelta(seconds=1.5)],
        "tags": [["x", "y"]],
        "when": [[moment]],
        "box": [{"x": 1, "at": moment.date()}],
        "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "half": pa.array([0.5], pa.float16()),
        "key": pa.array([uuid.UUID(int=5).bytes], pa.uuid()),
        "nothing": pa.nulls(1),
    }
    row = only_row(read(write(tmp_path, columns)))
    json.dumps(row.meta, allow_nan=False)
    assert row.steps == 20
    assert row.meta["nanos"].endswith("T22:13:20.123456789")
    assert row.meta["at"].startswith("2024-02-29T01:02:03.000004")
    assert row.meta["day"] == "2024-02-29"
    assert row.meta["price"] == "1.10"
    assert row.meta["lasts"] == 1.5
    assert row.meta["tags"] == ["x", "y"]
    assert row.meta["when"] == ["2024-02-29T01:02:03.000004+00:00"]
    assert row.meta["box"] == {"x": 1, "at": "2024-02-29"}
    assert row.meta["pairs"] == [["k", 1]]
    assert row.meta["half"] == 0.5
    assert row.meta["key"] == str(uuid.UUID(int=5))
    assert row.meta["nothing"] is None


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("x", [float("inf")], "inf is not a number"),
        ("x", "a\0", "NUL"),
        ("prompt", "", "prompt is empty"),
        ("prompt", "a\0", "NUL"),
        ("steps", 0, "1 to 1000"),
        ("steps", True, "whole number"),
        ("prompt", b"a\xff", "bytes"),
        ("init_image", b"png", "bytes"),
        ("stpes", 4, "did you mean 'steps'"),
    ],
)
def test_a_value_that_cant_be_is_a_reject(tmp_path: Path, column: str, value: Any, words: str) -> None:
    reject = only_reject(read(write(tmp_path, {"prompt": ["a"]} | {column: [value]})))
    assert reject.column == column
    assert words in reject.reason
    assert reject.line == 1
    assert reject.excerpt.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        pa.array([2**63 - 1], pa.timestamp("ms")),
        pa.array([b"png"]),
        pa.array([["b", b"png"]], pa.list_(pa.binary())),
        pa.array([-(2**62)], pa.date64()),
    ],
)
def test_the_excerpt_of_what_cannot_be_read_is_json(tmp_path: Path, value: Any) -> None:
    """No class of ours shows in it."""
    reject = only_reject(read(write(tmp_path, {"prompt": ["a fox"], "n": [3], "init_image": value})))
    assert json.loads(reject.excerpt) == {"prompt": "a fox", "n": 3, "init_image": "…"}


def test_invalid_utf8_rejects_its_row_alone(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 2, 3], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffc")])
    first, second, third = read(write(tmp_path, {"prompt": text}))
    assert isinstance(first, Row)
    assert isinstance(second, Reject)
    assert (second.line, second.column) == (2, "prompt")
    assert isinstance(third, Row)


def test_nanoseconds_inside_a_list_reject_the_row(tmp_path: Path) -> None:
    column = pa.array([[1_700_000_000_123_456_789]], pa.list_(pa.timestamp("ns")))
    assert only_reject(read(write(tmp_path, {"prompt": ["a"], "at": column}))).column == "at"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_compressed_parquet_is_read(tmp_path: Path, pack: Any) -> None:
    data = pack(write(tmp_path, {"Caption": ["a fox"]}).read_bytes())
    path = tmp_path / ("m.parquet.gz" if pack is gzip.compress else "m.parquet.zst")
    path.write_bytes(data)
    assert only_row(read(path, rules(renames={"prompt": "Caption"}))).prompt == "a fox"


def test_a_damaged_parquet_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": [f"fox {n}" for n in range(3_000)]}, compression="zstd")
    data = path.read_bytes()
    for damaged in (data[:-100], data[: len(data) // 2], data[:200] + bytes(900) + data[1_100:]):
        path.write_bytes(damaged)
        with pytest.raises(ManifestError, match=r"m\.parquet: damaged, truncated or not Parquet"):
            read(path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"Caption": ["a"]}, "no 'prompt' column"), ({"prompt": pa.array([], pa.string())}, "has no rows")],
)
def test_a_parquet_without_prompts_is_an_error(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read(write(tmp_path, columns))


def test_a_parquet_with_a_column_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"]), path)
    with pytest.raises(ManifestError, match="twice"):
        read(path)
