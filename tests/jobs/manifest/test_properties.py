import csv
import gzip
import io
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.manifest import KNOWN_COLUMNS, Reject, Row
from jobs.manifest.values import NOT_STORABLE
from tests.jobs.manifest.helpers import MODELS, read_bytes

ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
TEXT_COLUMNS = ("prompt", "id", "negative_prompt", "tenant")
COLUMNS = st.sampled_from([*KNOWN_COLUMNS, "label", "Note", "类别"])
LIKELY = st.sampled_from(
    ["", "1", "4", "64", "512.0", "0.5", "painter", "sd15", "euler", '"', ",", "\r\n", "\t"]
)
TEXTS = st.dictionaries(COLUMNS, ANY_TEXT | LIKELY, max_size=6)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | LIKELY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
NUMBERS = ("width", "height", "steps", "guidance_scale", "seed", "num_images", "strength", "noise_level")


def read(name: str, data: bytes) -> list[Row | Reject]:
    with tempfile.TemporaryDirectory() as folder:
        return read_bytes(Path(folder), name, data)


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in (*value.keys(), *value.values()) for text in texts_in(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def check(item: Row | Reject, written: dict[str, Any]) -> None:
    """A row is what was written, a reject is printable; both can be stored."""
    json.dumps(asdict(item), allow_nan=False)
    assert not any(map(NOT_STORABLE.search, texts_in(asdict(item))))
    if isinstance(item, Reject):
        assert item.reason.isprintable()
        assert item.excerpt.isprintable()
        assert len(item.excerpt) <= 200
        return
    assert item.meta == {name: value for name, value in written.items() if name not in KNOWN_COLUMNS}
    for name in TEXT_COLUMNS:
        value = written.get(name)
        blank = value is None or (name != "negative_prompt" and not str(value).strip())
        assert getattr(item, name) == (("" if name == "negative_prompt" else None) if blank else str(value))
    for name in NUMBERS:
        value = written.get(name)
        if value is not None and str(value).strip():
            assert getattr(item, name) == float(value) or getattr(item, name) == int(value)
    assert item.model in {rules.id for rules in MODELS.values()}


def as_delimited(records: list[dict[str, str]], delimiter: str) -> bytes:
    header = list({name: None for record in records for name in record})
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *([record.get(name, "") for name in header] for record in records)])
    return text.getvalue().encode("utf-8", "surrogatepass")


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from([("m.csv", ","), ("m.tsv", "\t")]))
def test_any_text_through_csv_is_a_row_or_a_reject(
    records: list[dict[str, str]], kind: tuple[str, str]
) -> None:
    name, delimiter = kind
    records = [{"prompt": "a fox"}, *({"prompt": "a fox"} | record for record in records)]
    header = list({name: None for record in records for name in record})
    data = as_delimited(records, delimiter)
    items = read(name, data)
    filled = [record for record in records if any(value.strip() for value in record.values())]
    assert [item.ordinal for item in items] == list(range(len(filled)))
    line = 1 + 1
    rows = iter(items)
    for record in records:
        if record not in filled:
            line += 1 + sum(value.count("\n") for value in record.values())
            continue
        item = next(rows)
        check(item, {name: record.get(name, "") for name in header})
        assert item.line == line
        line += 1 + sum(value.count("\n") for value in record.values())
        if any(map(NOT_STORABLE.search, record.values())):
            assert isinstance(item, Reject)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(COLUMNS, JSON_VALUES, max_size=6), min_size=1, max_size=3), st.booleans())
def test_any_value_through_jsonl_is_a_row_or_a_reject(
    records: list[dict[str, Any]], ascii_only: bool
) -> None:
    records = [{"prompt": "a fox"} | record for record in records]
    lines = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    items = read("m.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass"))
    for number, (item, record) in enumerate(zip(items, records, strict=True)):
        assert (item.ordinal, item.line) == (number, number + 1)
        check(item, record)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(ANY_TEXT, min_size=1), st.sampled_from(["gz", "zst"]), st.sampled_from(["txt", "csv", "jsonl"])
)
def test_compression_changes_nothing(texts: list[str], suffix: str, format: str) -> None:
    data = {
        "txt": lambda: "\n".join(["a", *texts]).encode("utf-8", "surrogatepass"),
        "csv": lambda: as_delimited([{"prompt": text} for text in ["a", *texts]], ","),
        "jsonl": lambda: "\n".join(json.dumps({"prompt": text}) for text in texts).encode(),
    }[format]()
    pack = gzip.compress if suffix == "gz" else zstandard.compress
    assert read(f"m.{format}.{suffix}", pack(data)) == read(f"m.{format}", data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "txt", "jsonl"]))
def test_any_bytes_are_rows_or_rejects(data: bytes, format: str) -> None:
    head = {"csv": b"prompt,x\n", "tsv": b"prompt\tx\n", "jsonl": b'{"prompt":"a"}\n'}.get(format, b"a\n")
    for item in read(f"m.{format}", head + data + b'\n{"prompt":"a"}\na,b\na\tb\n\xc3\xa9'):
        if isinstance(item, Reject):
            assert item.excerpt.isprintable()
        else:
            json.dumps(asdict(item), allow_nan=False).encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from('a",\t\r\n'), max_size=8), min_size=2, max_size=8))
def test_quoting_agrees_with_the_csv_module(cells: list[str]) -> None:
    pairs = [
        {"prompt": f"a{left}", "label": right} for left, right in zip(cells[::2], cells[1::2], strict=False)
    ]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([["prompt", "label"], *(list(pair.values()) for pair in pairs)])
    rows = read("m.csv", text.getvalue().encode())
    assert [{"prompt": row.prompt} | row.meta for row in rows if isinstance(row, Row)] == pairs
