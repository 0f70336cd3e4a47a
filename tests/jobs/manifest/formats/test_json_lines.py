import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.manifest import KNOWN_COLUMNS, Row
from jobs.manifest.formats import dispatch
from jobs.manifest.formats.json_lines import read_carefully
from jobs.manifest.raw_record import Records
from jobs.manifest.reading.decompressed_lines import Lines
from tests.jobs.manifest.helpers import read_bytes

NUMBERS = [
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "4",
        "64",
        "512.0",
        "1e2",
        "0.1",
        "01",
        "1.",
        "1e400",
        "1e-400",
        "NaN",
        "-Infinity",
    ),
    *("9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e19"),
]
NAMES = st.sampled_from([*KNOWN_COLUMNS, "label", "Note", "类别", 'a":b', "a :b", "", "\\", "Prompt"])
GAPS = st.sampled_from(["", "", "", " ", "\t", "\r", "\xa0"])
TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ["fox", "euler", "a: b", '":', "\0", " "]
)
STRINGS = st.builds(lambda text, ascii: json.dumps(text, ensure_ascii=ascii), TEXTS, st.booleans())
SCALARS = (
    STRINGS
    | st.sampled_from(
        [*NUMBERS, "true", "false", "null", '"\\ud800"', '"\\u0000"', '"\\u00e9"', '"\n"', "tru"]
    )
    | st.integers().map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)


def as_object(pairs: list[tuple[str, str, str, str]], separator: str = ",") -> str:
    cells = (
        f"{json.dumps(key, ensure_ascii=False)}{before}:{after}{value}" for key, before, after, value in pairs
    )
    return "{" + separator.join(cells) + "}"


def objects(values: st.SearchStrategy[str], most: int) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(NAMES, GAPS, GAPS, values), max_size=most)
    return st.builds(as_object, pairs, st.sampled_from([",", ", "]))


VALUES = st.recursive(
    SCALARS,
    lambda inner: objects(inner, 2) | st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
    max_leaves=4,
)
LINES = st.builds(lambda *parts: "".join(parts), GAPS, objects(VALUES, 5) | VALUES, GAPS)


def carefully(lines: Lines, *_: object) -> Records:
    """`read_jsonl` without its short cuts."""
    for line, raw in lines.numbered():
        record = read_carefully(line, raw)
        if record:
            yield record


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=4), st.booleans())
@example(['{"prompt":"a","prompt":"b"}', '{"prompt":"a","x":1,"x":"1"}'], False)
@example(['{"prompt":"a","x":18446744073709551616}', '{"prompt":"a","x":[18446744073709551616]}'], False)
@example(['{"prompt":"a\\u0000"}', '{"prompt":"a","x":"\\ud800"}', '{"prompt":"a","x":{"y":1,"y":2}}'], False)
@example(['{"prompt":"a","x":[{"y":1,"y":2}]}', '{"prompt":"a", "x" : 1, "x" : 2}'], False)
def test_short_cuts_change_no_row_and_no_reject(lines: list[str], is_cut: bool) -> None:
    text = "\n".join(['{"prompt":"a fox"}', *lines])
    data = text.encode("utf-8", "surrogatepass")[: -1 if is_cut else None]
    with tempfile.TemporaryDirectory() as folder:
        usual = read_bytes(Path(folder), "m.jsonl", data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "read_jsonl", carefully)
            careful = read_bytes(Path(folder), "m.jsonl", data)
    assert repr(usual) == repr(careful)


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, max_size=4))
def test_what_is_remembered_of_a_row_changes_none_like_it(lines: list[str]) -> None:
    once = ['{"prompt":"a fox"}', *lines]
    with tempfile.TemporaryDirectory() as folder:
        data = "\n".join([*once, *once]).encode("utf-8", "surrogatepass")
        items = [replace(item, ordinal=0, line=0) for item in read_bytes(Path(folder), "m.jsonl", data)]
    half = len(items) // 2
    assert repr(items[:half]) == repr(items[half:])


def test_short_cuts_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jobs.manifest.formats.json_lines.read_carefully", None)
    lines = [
        '{"prompt":"a fox","label":"fox","label_id":3,"seed":null,"is_new":true}',
        '{"prompt": "a \\"fox\\", \\u00e9", "score": 0.5, "tags": ["a", 1, 0.25]}',
    ]
    first, second = read_bytes(tmp_path, "m.jsonl", "\n".join(lines).encode())
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.meta == {"label": "fox", "label_id": 3, "is_new": True}
    assert (second.prompt, second.meta) == ('a "fox", é', {"score": 0.5, "tags": ["a", 1, 0.25]})
