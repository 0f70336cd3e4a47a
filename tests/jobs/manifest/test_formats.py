import csv
import io
import json
import tracemalloc
from pathlib import Path

import pytest

from jobs.errors import ManifestError
from jobs.manifest import Reject, Row, open_source, read_rows
from tests.jobs.manifest.helpers import only_reject, only_row, read, read_bytes, rules

BOM = b"\xef\xbb\xbf"


def prompts(items: list[Row | Reject]) -> list[tuple[int, str]]:
    return [(item.line, item.prompt if isinstance(item, Row) else f"! {item.reason}") for item in items]


def test_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    data = BOM + "a fox\r\n\r\n  \n\f a 🦊\f\r\nlast".encode()
    items = read_bytes(tmp_path, "m.txt", data)
    assert prompts(items) == [(1, "a fox"), (4, " a 🦊"), (5, "last")]
    assert [item.ordinal for item in items] == [0, 1, 2]


@pytest.mark.parametrize("end", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("name", ["m.txt", "m.csv", "m.tsv"])
def test_other_line_ends_reject_their_line(tmp_path: Path, name: str, end: str) -> None:
    header = "" if name == "m.txt" else "prompt\n"
    items = read_bytes(tmp_path, name, f"{header}a fox{end}an owl\na cross\n".encode())
    reject, row = items
    assert isinstance(reject, Reject)
    assert isinstance(row, Row)
    assert f"(U+{ord(end):04X}), which may be meant to end a line" in reject.reason


def test_other_line_ends_within_quotes_are_text(tmp_path: Path) -> None:
    prompt = "a fox\u2028an owl"
    for name, data in (("m.csv", f'prompt\n"{prompt}"\n'), ("m.jsonl", f'{{"prompt": "{prompt}"}}\n')):
        assert only_row(read_bytes(tmp_path, name, data.encode())).prompt == prompt


def test_text_under_a_rename_is_still_the_prompt(tmp_path: Path) -> None:
    assert (
        only_row(read_bytes(tmp_path, "m.txt", b"a fox", rules(renames={"prompt": "Caption"}))).prompt
        == "a fox"
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_newlines_keep_line_numbers_right(tmp_path: Path, end: str) -> None:
    rows = [["prompt", "x"], ["a\nb\n\n", "1"], ["c, d", 'say "hi"'], ["e\r\nf", "g\n"], ["h", "2"]]
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(rows)
    items = read_bytes(tmp_path, "m.csv", BOM + text.getvalue().encode())
    assert [(i.prompt, i.meta["x"]) for i in items if isinstance(i, Row)] == [tuple(row) for row in rows[1:]]
    assert [item.line for item in items] == [2, 6, 7, 10]


def test_rows_that_dont_fit_the_header(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.csv", b"prompt,x\na\n\nb,1,2\n\r\nc,1\n" + b'"d",1,2\n,\n,1\n')
    assert prompts(items) == [
        (2, "! has 1 cells, the header has 2; quote cells that hold the separator"),
        (4, "! has 3 cells, the header has 2; quote cells that hold the separator"),
        (6, "c"),
        (7, "! has 3 cells, the header has 2; quote cells that hold the separator"),
        (9, "! prompt is empty"),
    ]


def test_a_csv_quote_that_is_wrong_is_a_reject_and_the_rest_goes_on(tmp_path: Path) -> None:
    data = b'prompt,x\n"a" b,1\nc "d",2\n"e\nf" g,3\nh,4\n"never closed,5\ni,6\n'
    items = read_bytes(tmp_path, "m.csv", data)
    doubled = "text follows a closing quote; double the quotes that belong to the text"
    assert prompts(items) == [
        (2, f"! {doubled}"),
        (3, 'c "d"'),
        (4, f"! {doubled} (lines 4 to 5)"),
        (6, "h"),
        (7, "! a quote is opened and never closed; double the quotes that belong to the text"),
        (8, "i"),
    ]


def test_a_tsv_written_without_quoting_keeps_its_quotes(tmp_path: Path) -> None:
    data = b'prompt\tx\n"A" b\t1\n"open\t2\nc\t"quoted\ncell"\n"d ""e"" f"\t\n"last\t3'
    items = read_bytes(tmp_path, "m.tsv", data)
    assert [(i.line, i.prompt, i.meta["x"]) for i in items if isinstance(i, Row)] == [
        (2, '"A" b', "1"),
        (3, '"open', "2"),
        (4, "c", "quoted\ncell"),
        (6, 'd "e" f', ""),
        (7, '"last', "3"),
    ]


def test_a_stray_quote_doesnt_swallow_a_megabyte_of_rows_unseen(tmp_path: Path) -> None:
    data = b'prompt,x\n"stray,1\n' + (b"a fox," + b"1" * 800 + b"\n") * 2_000
    first, *rest = read_bytes(tmp_path, "m.csv", data)
    assert isinstance(first, Reject)
    assert first.line == 2
    assert len(rest) == 2_000
    assert all(isinstance(item, Row) for item in rest)


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("m.csv", b'prompt,x\na,1\nb\xff,1\n"c\n\xff",1\nd,1', 3),
        ("m.tsv", b'prompt\tx\na\t1\nb\xff\t1\n"c\n\xff"\t1\nd\t1', 3),
        ("m.jsonl", b'{"prompt":"a"}\n{"prompt":"b\xff"}\n{"prompt":"c\xed\xa0\x80"}\n{"prompt":"d"}', 2),
        ("m.txt", b"a\nb\xff\n\xc3\nd", 2),
    ],
)
def test_invalid_utf8_rejects_its_row_alone(tmp_path: Path, name: str, data: bytes, line: int) -> None:
    first, second, third, last = read_bytes(tmp_path, name, data)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert last.prompt == "d"
    for item, number in ((second, line), (third, line + 1)):
        assert isinstance(item, Reject)
        assert "is not valid UTF-8" in item.reason
        assert item.line == number


@pytest.mark.parametrize(
    ("name", "data", "column"),
    [
        ("m.csv", b"prompt,x\na,b\0c", "x"),
        ("m.csv", b'prompt,x\n"a\n\0",b', "prompt"),
        ("m.tsv", b"prompt\tx\n\0\tb", "prompt"),
        ("m.txt", b"a\0", "prompt"),
    ],
)
def test_a_nul_character_is_a_reject(tmp_path: Path, name: str, data: bytes, column: str) -> None:
    reject = only_reject(read_bytes(tmp_path, name, data))
    assert reject.column == column
    assert "NUL" in reject.reason
    assert reject.excerpt.isprintable()


def test_a_misspelt_column_rejects_every_row_of_a_csv(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.csv", b"Promt,x\na,1\nb,2")
    assert all(isinstance(item, Reject) and "did you mean 'prompt'" in item.reason for item in items)
    assert [item.line for item in items] == [2, 3]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.txt", "m.tsv"])
def test_a_long_line_is_a_reject_and_not_held(tmp_path: Path, name: str) -> None:
    head = {"m.csv": b"prompt\n", "m.tsv": b"prompt\n"}.get(name, b"")
    good = b'{"prompt":"a fox"}' if name == "m.jsonl" else b"a fox"
    start = b"" if name == "m.txt" else b'{"prompt":"'
    path = tmp_path / name
    path.write_bytes(head + start + b"x" * 30_000_000 + b"\n" + good)
    tracemalloc.start()
    bad, row = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(bad, Reject)
    assert "over 1,048,576 bytes" in bad.reason
    assert isinstance(row, Row)
    assert row.prompt == "a fox"
    assert peak < 8_000_000


def test_a_cell_over_the_csv_modules_limit_is_right(tmp_path: Path) -> None:
    cell = "x" * 200_000 + "\n"
    row = only_row(read_bytes(tmp_path, "m.csv", f'prompt,note_text\na,"{cell}"'.encode()))
    assert row.meta == {"note_text": cell}


def test_memory_doesnt_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with path.open("w") as file:
        for number in range(12_000):
            file.write(
                json.dumps(
                    {"prompt": f"a fox {number} " + "x" * 2_000, "guidance_scale": number / 2000, "x": [1]}
                )
                + "\n"
            )
    with open_source(str(path)) as manifest:
        tracemalloc.start()
        count = sum(isinstance(item, Row) for item in read_rows(manifest, rules()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 12_000
    assert peak < 8_000_000


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", b"", "is empty"),
        ("m.csv", b"\n\n", "is empty; the first line has to be a header"),
        ("m.csv", b"prompt,x\n", "has no rows"),
        ("m.jsonl", b"\n \n", "has no rows"),
        ("m.txt", BOM, "has no rows"),
        ("m.csv", "prompt\na".encode("utf-16"), "UTF-16"),
        ("m.csv", b"caption,x\na,b", "no 'prompt' column"),
        ("m.csv", b'"prompt\na', "the header can't be read: a quote is opened"),
        ("m.csv", b"prompt\xff\na", "the header can't be read: byte 7 is not valid UTF-8"),
        ("m.csv", b"prompt,prompt\na,b", "'prompt' twice"),
        ("m.parquet", b"PAR1 and nothing more", "damaged, truncated or not Parquet"),
    ],
)
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        read_bytes(tmp_path, name, data)
    assert name in str(caught.value)
