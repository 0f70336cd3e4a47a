"""Files of a few kilobytes or megabytes that would take much time or memory: refused at once, with the limit."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import ManifestError
from jobs.manifest import Reject, Row
from jobs.manifest.columns import header as columns
from jobs.manifest.raw_record import ByShape, Shape, Shapes
from tests.jobs.manifest.helpers import only_reject, read, read_bytes

_WIDE = 10_000
_READ = """
import sys
from pathlib import Path
from tests.jobs.manifest.helpers import read
import resource
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read(Path(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


def _names(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def test_a_table_has_at_most_ten_thousand_columns(tmp_path: Path) -> None:
    for count in (_WIDE - 1, _WIDE):
        names = ["prompt", *_names(count)]
        made = {
            "a.csv": ",".join(names) + "\nfox" + ",1" * count,
        }
        for name, text in made.items():
            if count < _WIDE:
                (row,) = read_bytes(tmp_path, name, text.encode())
                assert isinstance(row, Row)
                assert len(row.meta) == count
            else:
                with pytest.raises(ManifestError, match="has 10,001 columns; at most 10,000 are read"):
                    read_bytes(tmp_path, name, text.encode())


def test_a_parquet_file_of_too_many_columns_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MAX_COLUMNS", 100)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["fox"], **{name: [1] for name in _names(100)}}), path)
    with pytest.raises(ManifestError, match="has 101 columns; at most 100"):
        read(path)


def test_an_object_of_too_many_keys_is_a_reject(tmp_path: Path) -> None:
    wide = json.dumps({"prompt": "fox", **dict.fromkeys(_names(_WIDE), 1)})
    first, second = read_bytes(tmp_path, "a.jsonl", f'{wide}\n{{"prompt": "owl"}}\n'.encode())
    assert isinstance(first, Reject)
    assert first.reason.startswith("has 10,001 columns")
    assert isinstance(second, Row)


def test_what_is_remembered_of_rows_with_keys_of_their_own_is_bounded() -> None:
    shapes, plans = Shapes(), ByShape[Shape, int]()
    for number in range(200):
        shape = shapes.of({f"{number} {'x' * 200_000}": 1})
        plans.remember(shape, number, shape)
    assert 0 < len(shapes._known) < 60
    assert 0 < len(plans) < 60


def test_long_options_are_not_remembered(tmp_path: Path) -> None:
    """A megabyte of blanks around a number is that number, two thousand of them are two gigabytes."""
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for number in range(120):
            file.write(
                json.dumps({"prompt": "fox", "seed": 1, "steps": " " * 1_000_000 + str(number)}) + "\n"
            )
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 60


@pytest.mark.parametrize("column", ["prompt", "id"])
def test_bytes_of_fixed_width_are_no_text(tmp_path: Path, column: str) -> None:
    wide = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(600, np.int32)), pa.array([b"y" * 1_000_000], pa.binary(1_000_000))
    )
    path = tmp_path / "a.parquet"
    table = pa.table({"prompt": ["fox"] * 600} | {column: wide})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    words = rf"column '{column}' holds fixed_size_binary\[1000000\], which is no text"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ManifestError, match=words):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_key_that_comes_twice_among_many_is_found_at_once(tmp_path: Path) -> None:
    keys = ",".join(f'"{name}":1' for name in [*_names(80_000), "z", "z"])
    reject = only_reject(read_bytes(tmp_path, "a.jsonl", f'{{"prompt":"fox",{keys}}}'.encode()))
    assert reject.reason == 'has the key "z" twice; keep one'


def test_options_of_a_line_of_text_are_short(tmp_path: Path) -> None:
    reject = only_reject(read_bytes(tmp_path, "a.txt", b"--prompt " + b"x" * 900_000))
    assert reject.reason == "its options have 900,009 characters; at most 40,000 are read"


def test_brackets_without_an_end_are_no_document(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is nested more than 1,000 levels deep; flatten it"):
        read_bytes(tmp_path, "a.json", b"[" * 5_000_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "prompts: {template: '" + "a" * 10_001 + "'}",
            ":1:21: a prompt of this template has 10,001 characters",
        ),
        (
            "prompts: {template: '"
            + "{x}" * 6
            + "'}\nvariables: {x: ["
            + "y" * 2_000
            + ","
            + "z" * 2_001
            + "]}",
            ":1:21: a prompt of this template has 12,000 characters or more; at most 10,000",
        ),
        (
            "prompts: {template: x}\ncolumns:\n" + "".join(f"  k{number}: 1\n" for number in range(1_001)),
            ":3:3: has 1,001 columns; at most 1,000 are read",
        ),
        (
            "prompts: {template: '" + "".join(f"{{v{number}}}" for number in range(100)) + "'}\nvariables:\n"
            "" + "".join(f"  v{number}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" for number in range(100)),
            ":1:1: makes over 10^100 rows; at most 10^15 are counted",
        ),
        ("a: &a [1]\nb: *a", ":1:4: anchors"),
        ("a: [" * 100, "nested more than 64 levels deep"),
        ("prompts: {template: x}\ncolumns: {seed: " + "9" * 100_000 + "}", ":2:17: '9999"),
    ],
    ids=["template", "values", "columns", "product", "anchor", "depth", "number"],
)
def test_a_recipe_says_its_limits_from_arithmetic(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        read(path)
    assert words in str(caught.value)
