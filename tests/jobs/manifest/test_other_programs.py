"""Files as other programs write them: read rightly, or refused as a whole with what they are."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import ManifestError, UsageError
from jobs.manifest import LineCounts, Reject, Row, RowRules, open_source, read_rows
from tests.jobs.manifest.helpers import read, read_bytes, rules

BOM = b"\xef\xbb\xbf"


def told(items: list[Row | Reject], *columns: str) -> list[Any]:
    """Prompts, or prompts with these columns; of rejects the line and the reason."""
    return [
        ((item.prompt, *(getattr(item, name) for name in columns)) if columns else item.prompt)
        if isinstance(item, Row)
        else (item.line, item.reason)
        for item in items
    ]


def counted(folder: Path, name: str, data: bytes, given: RowRules | None = None) -> dict[str, int]:
    (folder / name).write_bytes(data)
    counts = LineCounts()
    with open_source(str(folder / name)) as manifest:
        items = list(read_rows(manifest, given or rules(), counts))
    rejected = sum(isinstance(item, Reject) for item in items)
    return counts.report(len(items) - rejected, rejected)


TWO = ["a fox", "an owl"]
SEEDED = [("a fox", 1), ("an owl", 2)]
RECORDS = [{"prompt": "a fox", "seed": 1}, {"prompt": "an owl", "seed": 2}]

DOCUMENTS = {
    "an array over lines": json.dumps(RECORDS, indent=2),
    "an array on one line": json.dumps(RECORDS),
    "an array with a comma at its end": '[{"prompt": "a fox", "seed": 1},\n{"prompt": "an owl", "seed": 2},\n]',
    "objects one after the other": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "lines of objects": "\n".join(map(json.dumps, RECORDS)),
    "data": json.dumps({"data": RECORDS}),
    "rows": json.dumps({"version": 1, "rows": RECORDS}),
    "the rows of a dataset viewer": json.dumps(
        {"features": [], "rows": [{"row_idx": n, "row": record} for n, record in enumerate(RECORDS)]}
    ),
    "columns of lists": json.dumps({"prompt": TWO, "seed": [1, 2]}),
    "pandas' default": json.dumps({"prompt": {"0": TWO[0], "1": TWO[1]}, "seed": {"0": 1, "1": 2}}),
    "pandas' index": json.dumps({"x": RECORDS[0], "y": RECORDS[1]}),
    "pandas' split": json.dumps(
        {"columns": ["prompt", "seed"], "index": [0, 1], "data": [["a fox", 1], ["an owl", 2]]}
    ),
    "pandas' table": json.dumps({"schema": {"fields": []}, "data": RECORDS}),
    "CR alone": json.dumps(RECORDS, indent=2).replace("\n", "\r"),
    "a byte order mark": BOM.decode() + json.dumps(RECORDS),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("name", ["m.json", "m", "m.json.gz"])
def test_json_documents(tmp_path: Path, kind: str, name: str) -> None:
    data = DOCUMENTS[kind].encode()
    items = read_bytes(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert told(items, "seed") == SEEDED


def test_an_element_that_is_wrong_rejects_itself_alone(tmp_path: Path) -> None:
    data = b'[\n{"prompt": "a fox"},\n{"prompt": "b",},\n,\n{"prompt": NaN},\n7,\n{"prompt": "an owl"}\n]'
    items = read_bytes(tmp_path, "m.json", data)
    assert [item.line for item in items] == [2, 3, 4, 5, 6, 7]
    assert told(items)[0::5] == TWO
    assert [reason[:20] for _, reason in told(items)[1:5]] == [
        "is not JSON: Expecti",
        "there is nothing bet",
        "holds NaN, which JSO",
        "is not a JSON object",
    ]


def test_an_array_of_texts_is_one_of_prompts(tmp_path: Path) -> None:
    assert told(read_bytes(tmp_path, "m.json", b'["a fox", "an \\"owl\\", {1}"]')) == [
        "a fox",
        'an "owl", {1}',
    ]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    assert told(read_bytes(tmp_path, "m.json", b'{\n "prompt": "a fox",\n "tags": ["x"]\n}')) == ["a fox"]


def test_lists_and_single_values_are_columns_for_all_rows(tmp_path: Path) -> None:
    data = json.dumps({"prompt": TWO, "steps": 4}).encode()
    assert told(read_bytes(tmp_path, "m.json", data), "steps") == [("a fox", 4), ("an owl", 4)]


def batch_input(data: list[Any], columns: list[str], **more: Any) -> dict[str, Any]:
    held = {"columns": columns, "data": data} | more
    return {"input_data": held}


PARAMETERS = {"num_inference_steps": 5, "guidance_scale": 3.5}
BATCH_INPUTS = [
    batch_input(TWO, ["prompt"], index=[7, 8], parameters=PARAMETERS),
    batch_input([[text] for text in TWO], ["prompt"], index=[7, 8], parameters=PARAMETERS),
    batch_input(
        [[text, 5] for text in TWO], ["prompt", "steps"], index=[7, 8], params={"guidance_scale": 3.5}
    ),
    batch_input(TWO, ["prompt"], index=["7", "8"]) | {"params": PARAMETERS},
]


@pytest.mark.parametrize("document", BATCH_INPUTS)
def test_the_batch_input_of_an_endpoint(tmp_path: Path, document: dict[str, Any]) -> None:
    expected = [("a fox", "7", 5, 3.5), ("an owl", "8", 5, 3.5)]
    columns = "id", "steps", "guidance_scale"
    assert told(read_bytes(tmp_path, "m.json", json.dumps(document, indent=2).encode()), *columns) == expected
    assert told(read_bytes(tmp_path, "m.json", json.dumps(document).encode()), *columns) == expected
    lines = "\n".join([json.dumps(document), '{"prompt": "a cat"}', json.dumps(document)]).encode()
    for name in ("m.jsonl", "m"):
        items = read_bytes(tmp_path, name, lines)
        assert told(items, *columns) == [*expected, ("a cat", None, 50, 7.5), *expected]
        assert [item.line for item in items] == [1, 1, 2, 3, 3]
        assert [item.ordinal for item in items] == [0, 1, 2, 3, 4]
    assert counted(tmp_path, "m.jsonl", lines + b"\n\n")["read"] == 6


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (batch_input(TWO, ["prompt"], index=[1]), "as many ids as 'data' has rows, 2"),
        (batch_input([["a", 1], ["b"]], ["prompt", "seed"]), "row 2 of 'data' has 1 values for 2 columns"),
        (batch_input(TWO, ["prompt", "prompt"]), "different names"),
        (batch_input(TWO, ["prompt"], colour="red"), "'colour' beside it or in it"),
        (batch_input(TWO, ["caption"]), "--map prompt="),
        ({"input_data": {"data": TWO}}, "has to have 'columns' and 'data'"),
    ],
)
def test_a_batch_input_that_is_wrong(tmp_path: Path, document: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read_bytes(tmp_path, "m.json", json.dumps(document).encode())


TABLES = {
    "comma": b"prompt,seed\na fox,1\nan owl,2\n",
    "semicolon": b"prompt;seed\na fox;1\nan owl;2\n",
    "tab": b"prompt\tseed\na fox\t1\nan owl\t2\n",
    "bar": b"seed|prompt\n1|a fox\n2|an owl\n",
    "sep": b"sep=,\r\nprompt,seed\r\na fox,1\r\nan owl,2\r\n",
    "sep semicolon": b'"sep=;"\nprompt;seed\na fox;1\nan owl;2\n',
    "CR alone": b"prompt,seed\ra fox,1\ran owl,2\r",
    "one empty column": b"prompt,seed,\na fox,1,\nan owl,2,\n",
    "two empty columns": b"prompt,seed,,\na fox,1,,\nan owl,2,,\n",
    "cells beyond the header": b"prompt,seed\na fox,1,,\nan owl,2, \n",
    "rows without the empty column": b"prompt,seed,\na fox,1\nan owl,2\n",
    "rows of empty cells": b'prompt,seed\n,\na fox,1\n , \n"",""\nan owl,2\n,\n',
    "blanks around quotes": b'prompt, seed\n"a fox" , 1\n "an owl", 2\n',
    "marks of joined files": BOM + b"prompt,seed\n" + BOM + b"a fox,1\nan owl,2\n",
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m", "m.csv.gz"])
def test_tables(tmp_path: Path, kind: str, name: str) -> None:
    data = TABLES[kind]
    items = read_bytes(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert told(items, "seed", "meta") == [("a fox", 1, {}), ("an owl", 2, {})]


def test_decimal_commas_where_semicolons_part_cells(tmp_path: Path) -> None:
    data = b"prompt;guidance_scale;note\na fox;7,5;1,5\n"
    (row,) = read_bytes(tmp_path, "m.csv", data)
    assert told([row], "guidance_scale", "meta") == [("a fox", 7.5, {"note": "1,5"})]
    (reject,) = read_bytes(tmp_path, "m.csv", b'prompt,guidance_scale\na fox,"7,5"\n')
    assert "after a point" in told([reject])[0][1]


def test_a_column_without_a_name_that_holds_words_is_kept(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.csv", b",prompt\n0,a fox\n1,an owl\n")
    assert told(items, "meta") == [("a fox", {"column 1": "0"}), ("an owl", {"column 1": "1"})]


def test_the_header_again_is_a_reject(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.csv", b"prompt,note\na fox,1\nprompt,note\nan owl,2\n")
    assert told(items) == ["a fox", (3, "repeats the header, as joined files do; remove the line"), "an owl"]


def test_a_stray_quote_rejects_its_line(tmp_path: Path) -> None:
    rows = [b"a square,%d" % n for n in range(300)]
    rows[3], rows[250] = b'"a circle,3', b'"a ""cross"", blue",250'
    items = read_bytes(tmp_path, "m.csv", b"prompt,seed\n" + b"\n".join(rows))
    assert len(items) == 300
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [(item.line, item.reason[:35]) for item in rejects] == [(5, "a quote is opened and never closed;")]
    assert told(items)[250] == 'a "cross", blue'


def test_a_broken_cell_of_several_lines_says_how_many(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.csv", b'prompt,seed\n"a\nfox" in snow,3\nan owl,2\n')
    assert told(items)[0][1].endswith("(lines 2 to 3)")
    assert told(items)[1] == "an owl"


@pytest.mark.parametrize("delimiter", ["~", ";", "tab"])
def test_a_delimiter_that_is_told(tmp_path: Path, delimiter: str) -> None:
    mark = "\t" if delimiter == "tab" else delimiter
    path = tmp_path / "m.csv"
    path.write_text(f"Caption{mark}seed\na, fox{mark}1\n")
    with open_source(str(path), delimiter=delimiter) as manifest:
        items = list(read_rows(manifest, rules(renames={"prompt": "Caption"})))
    assert told(items, "seed") == [("a, fox", 1)]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("m.csv", "ab"), ("m.csv", '"'), ("m.csv", "x"), ("m.txt", ";")]
)
def test_a_delimiter_that_cant_be(tmp_path: Path, name: str, delimiter: str) -> None:
    (tmp_path / name).write_text("prompt")
    with (
        pytest.raises(UsageError, match="--delimiter"),
        open_source(str(tmp_path / name), delimiter=delimiter),
    ):
        pass


TEXTS = {
    "CR alone": b"a fox\ran owl\r",
    "CR among others": b"a fox\r\nan owl\r",
    "marks of joined files": BOM + b"a fox\n" + BOM + b"an owl\n",
    "invisible lines": "a fox\n\u200b\n\ufeff\n\u00ad\n\x1a\n\u3164\n\u2800 \u2003\nan owl\x1a".encode(),
    "options": b'--prompt "a fox" --steps 50\n--prompt an owl --seed -1\n',
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", ["m.txt", "m"])
def test_lines_of_text(tmp_path: Path, kind: str, name: str) -> None:
    assert told(read_bytes(tmp_path, name, TEXTS[kind])) == TWO


def test_the_options_of_a_prompts_file(tmp_path: Path) -> None:
    line = (
        '--prompt "a fox" --negative_prompt "blurry, ugly" --steps 4 --seed 7 --cfg_scale 5 --sampler_name euler '
        "--width 64 --height 128 --n_iter 2 --batch_size 3 --sd_model sd15"
    )
    (row,) = read_bytes(tmp_path, "m.txt", line.encode())
    assert isinstance(row, Row)
    assert (row.prompt, row.negative_prompt, row.steps, row.seed) == ("a fox", "blurry, ugly", 4, 7)
    assert (row.guidance_scale, row.sampler, row.width, row.height) == (5, "euler", 64, 128)
    assert (row.num_images, row.model, row.meta) == (6, "painter", {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--prompt a --restore_faces true", "--restore_faces is not read; there are --prompt"),
        ("--steps 4", "name no --prompt"),
        ("--prompt a --steps", "--steps has no value"),
        ("--prompt a --steps 4 --steps 5", "given twice"),
        ("--prompt a cat's eye", "no closing quotation"),
        ("--prompt a --steps many", "steps must be a whole number"),
    ],
)
def test_options_that_cant_be_reject_the_line(tmp_path: Path, line: str, words: str) -> None:
    bad, good = read_bytes(tmp_path, "m.txt", f"{line}\n-- a fox\n".encode())
    assert words in told([bad])[0][1]
    assert told([good]) == ["-- a fox"]


def test_a_mark_inside_a_line_shows_where_files_were_joined(tmp_path: Path) -> None:
    (reject,) = read_bytes(tmp_path, "m.txt", b"a fox" + BOM + b"an owl")
    assert "byte order mark inside" in told([reject])[0][1]


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "xlsx": (
        "m.xlsx",
        b"PK\x03\x04" + b"\0" * 26 + b"xl/workbook.xml",
        "is an Excel workbook; save it as CSV",
    ),
    "xlsx as csv": ("m.csv", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "is an Office document"),
    "ods": ("m.ods", b"PK\x03\x04mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "OpenDocument"),
    "docx": ("m.docx", b"PK\x03\x04" + b"\0" * 26 + b"word/document.xml", "is a Word document"),
    "zip": ("m.csv.zip", b"PK\x03\x04" + b"\0" * 26 + b"prompts.csv", "is a zip archive; unpack it"),
    "zip as jsonl": ("m.jsonl", b"PK\x03\x04" + b"\0" * 26 + b"p.jsonl{}\n{}", "is a zip archive"),
    "xls": ("m.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "such as an .xls workbook"),
    "pdf": ("m.pdf", b"%PDF-1.7\n", "is a PDF document"),
    "png": ("m.txt", b"\x89PNG\r\n\x1a\n\0\0", "is a PNG picture"),
    "jpeg": ("m", b"\xff\xd8\xff\xe0", "is a JPEG picture"),
    "sqlite": ("m.db", b"SQLite format 3\0", "is an SQLite database"),
    "arrow": ("m.arrow", b"ARROW1\0\0", "is an Arrow or Feather file"),
    "pickle": ("m.pkl", b"\x80\x04\x95\x10\0", "is a Python pickle"),
    "numpy": ("m.npy", b"\x93NUMPY\x01\0", "is a NumPy array"),
    "bzip2": ("m.txt.bz2", b"BZh91AY&SY", "packed by bzip2; unpack it"),
    "xz": ("m.jsonl.xz", b"\xfd7zXZ\0\0", "packed by xz"),
    "7z": ("m.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    "tar": ("m.tar", b"p.txt".ljust(257, b"\0") + b"ustar\0", "is a tar archive"),
    "tar.gz": ("m.tar.gz", gzip.compress(b"p.txt".ljust(257, b"\0") + b"ustar\0"), "is a tar archive"),
    "gzip twice": ("m.txt.gz", gzip.compress(gzip.compress(b"a")), "packed twice"),
    "html": ("m.csv", b"<!DOCTYPE html><html>404</html>", "is an HTML or XML page"),
    "lfs": ("m.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    "rtf": ("m.rtf", b"{\\rtf1\\ansi a fox}", "is a rich text document"),
    "utf-16": ("m.csv", "prompt\na fox".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "utf-16-le": ("m.csv", "prompt\na fox".encode("utf-16-le"), "is UTF-16 without a byte order mark"),
    "utf-16-be": ("m", "prompt\na fox".encode("utf-16-be"), "is UTF-16 without a byte order mark"),
    "utf-32": ("m.txt", "prompt\na fox".encode("utf-32"), "is UTF-32; save it as UTF-8"),
    "utf-32-le": ("m.jsonl", '{"prompt": "a"}'.encode("utf-32-le"), "is UTF-32 without a byte order mark"),
    "utf-32-be": ("m", "prompt\na fox".encode("utf-32-be"), "is UTF-32 without a byte order mark"),
    "binary": ("m", b"\x01\x02\0\x03\x9a\xf1" * 30, "is no text in UTF-8"),
    "array in jsonl": ("m.jsonl", b'[\n {"prompt": "a"}\n]', "is a JSON array, not lines of JSON objects"),
    "array on one line in jsonl": ("m.jsonl", b'[{"prompt": "a"}]', "is a JSON array"),
    "object over lines in jsonl": ("m.jsonl", b'{\n "prompt": "a"\n}', "a JSON document of several lines"),
    "csv in jsonl": (
        "m.jsonl",
        b"prompt,seed\na fox,1",
        "holds no JSON object; its first line is 'prompt,seed'",
    ),
    "jsonl in csv": ("m.csv", b'{"prompt": "a"}\n{"prompt": "b"}', "is JSON Lines, not a .csv table"),
    "jsonl in txt": ("m.txt", b'{"prompt": "a"}\n{"prompt": "b"}', "is JSON Lines, not lines of text"),
    "csv in txt": ("m.txt", b"prompt,seed\na fox,1\nan owl,2\n", "is a table whose cells commas part"),
    "csv in json": ("m.json", b"prompt,seed\na fox,1\n", "not JSON; rename it"),
    "text in json": ("m.json", b"a fox\nan owl\n", "is not JSON from line 1 on: 'a fox"),
    "unfinished json": ("m.json", b'[{"prompt": "a"}, {"prompt":', "is cut off or not JSON"),
    "unclosed text in json": ("m.json", b'[{"prompt": "a}]', "is cut off or not JSON"),
    "arrays in json": ("m.json", b'[["a fox", 1], ["an owl", 2]]', "don't name their columns"),
    "no rows in json": ("m.json", b"[]", "has no rows"),
    "a table without prompts": ("m", b"Caption,seed\na fox,1\nan owl,2\n", "might be a table"),
    "tabs without a header": ("m", b"a fox\t1\nan owl\t2\n", "might be a table"),
    "captions of COCO": (
        "m.json",
        json.dumps(
            {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a fox"}] * 2}
        ).encode(),
        r"take those in 'annotations' out with jq -c '.annotations\[\]'. Did you mean 'caption'",
    ),
    "prompts in an object": (
        "m.json",
        b'{"items": [{"prompt": "a"}]}',
        r"take those in 'items' out with jq -c '.items\[\]'\.$",
    ),
    "a number in json": ("m.json", b"3\n", "is JSON, but holds 3 alone and no rows"),
    "a text in json": ("m.json", b'"a fox"', "is JSON, but holds 'a fox' alone and no rows"),
    "NaN in json": ("m.json", b"NaN", "is not JSON from line 1 on: 'NaN'"),
    "a quote in the header": ("m.csv", b'"prompt\na\n', "the header can't be read: a quote is opened"),
    "a byte in the header": (
        "m.csv",
        b"p\xffompt\na\n",
        "the header can't be read: byte 2 is not valid UTF-8",
    ),
    "a header that ^ parts": ("m.csv", b"prompt^seed\na^7\n", r"looks parted by '\^'"),
    "a workflow of ComfyUI": (
        "m.json",
        json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}).encode(),
        "is a ComfyUI workflow",
    ),
    "columns of different lengths": (
        "m.json",
        b'{"prompt": ["a", "b"], "seed": [1]}',
        "hasn't the same rows",
    ),
    "DiffusionDB": (
        "m.json",
        json.dumps({"x.png": {"p": "a fox", "se": 1, "c": 7.0, "st": 50, "sa": "k_euler"}}).encode(),
        "did you mean 'p'",
    ),
    "OpenAI's batches": (
        "m.jsonl",
        json.dumps({"custom_id": "1", "url": "/v1/images", "body": {"prompt": "a fox", "n": 1}}).encode(),
        "'body' holds one: take it out with jq -c '.body'",
    ),
    "Hugging Face's metadata": ("m.jsonl", b'{"file_name": "1.png", "text": "a fox"}', "--map prompt=text"),
    "img2dataset": ("m.jsonl", b'{"url": "http://x/1.jpg", "caption": "a fox"}', "--map prompt=caption"),
    "LAION in capitals": ("m.csv", b"URL,TEXT\nhttp://x,a fox\n", "[Dd]id you mean 'TEXT'"),
    "an infotext": (
        "m.txt",
        b"a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64\n",
        "line 2 is of a web UI's generation parameters",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_manifest_is_refused_as_a_whole(tmp_path: Path, kind: str) -> None:
    name, data, words = REFUSED[kind]
    with pytest.raises(ManifestError, match=f"(?i){words}" if "(" not in words else words):
        read_bytes(tmp_path, name, data)


def test_a_file_whose_rows_have_no_prompt_at_first_is_read_where_one_has(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.jsonl", b'{"caption": "a fox"}\n{"prompt": "an owl"}\n')
    assert told(items) == [
        (1, "there is no 'prompt' in this row; did you mean 'caption' (--map prompt=caption)?"),
        "an owl",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"{red|blue} circle, large\na small cross\n",
        b"[red:blue:0.5] circle\na cross\n",
        b"a fox\nan owl, grey\n",
    ],
)
def test_text_without_a_name_that_only_begins_like_json(tmp_path: Path, data: bytes) -> None:
    assert told(read_bytes(tmp_path, "m", data)) == data.decode().splitlines()


@pytest.mark.parametrize(
    "data", [b"prompt;seed\na;1\n", b'[{"prompt": "a", "seed": 1}]', b"prompt\tseed\na\t1\n"]
)
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "piped"
    path.write_bytes(data)
    with path.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with open_source("-") as manifest:
            assert told(list(read_rows(manifest, rules())), "seed") == [("a", 1)]


def row(**columns: Any) -> bytes:
    return json.dumps({"prompt": "a fox"} | columns).encode()


FOREIGN_TEXT = {
    "latin-1": "un renard\nun épagneul\nl'été\nà côté d'une forêt\n",
    "cp1252": "“a fox”\n“an owl”\n“a cross”\n",
    "shift_jis": "赤い円\n青い四角\n緑の星\n",
    "cp1251": "лиса\nсова\nволк\n",
}


@pytest.mark.parametrize("encoding", FOREIGN_TEXT)
@pytest.mark.parametrize("name", ["m.txt", "m.csv", "m.jsonl", "m.json", "m", "m.txt.gz"])
def test_a_file_in_another_encoding_is_refused_as_a_whole(tmp_path: Path, name: str, encoding: str) -> None:
    lines = FOREIGN_TEXT[encoding].splitlines()
    rows = [json.dumps({"prompt": line}, ensure_ascii=False) for line in lines]
    text = {"csv": ["prompt", *lines], "jsonl": rows, "json": ["[", ",\n".join(rows), "]"]}
    data = "\n".join(text.get(name.partition(".")[2], lines)).encode(encoding)
    with pytest.raises(ManifestError, match=r"is not in UTF-8: of its first .* save it as UTF-8"):
        read_bytes(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)


def test_some_damaged_lines_are_rejected_alone(tmp_path: Path) -> None:
    late = b"a fox in a wood, in the rain\n" * 3_000 + b"\xe9\n" * 40
    for data in (b"a\n" * 60 + b"\xe9\n" * 4, "é\n".encode() + b"\xe9\n" * 4, b"a\n\xe9\n", late):
        items = read_bytes(tmp_path, "m.txt", data)
        rejects = [item for item in items if isinstance(item, Reject)]
        assert len(rejects) == data.count(b"\xe9")


OTHER_TEXTS = {
    "settings by name": ("x.toml", b"a fox\n", "is named as a file of settings"),
    "a program by name": ("x.py", b"print('a fox')\n", "is named as a program"),
    "a document by name": ("x.MD", b"A fox\n", "is named as a document"),
    "a packed log": ("x.log.gz", gzip.compress(b"started\n"), "is named as a log"),
    "a script": ("x", b"#!/bin/sh\necho a fox\n", r"seems to be a script \(#!/bin/sh\)"),
    "a script named as text": ("x.txt", b"#!/bin/sh\necho a fox\n", "seems to be a script"),
    "tables in TOML": ("x", b'# prompts\n[[row]]\nprompt = "a fox"\n', "seems to be a file of settings"),
    "INI": ("x.list", b"[main]\n; of foxes\nprompt=a fox\n", "seems to be a file of settings"),
    "settings alone": ("x", b"STEPS=20\nPROMPT=a fox\n", "seems to be a file of settings"),
    "YAML": ("x", b"- prompt: a fox\n- prompt: an owl\n", "seems to be YAML"),
    "a heading": ("x", b"# Foxes\n\nA fox\n", "seems to be a Markdown document"),
    "a Markdown table": ("x", b"| prompt | seed |\n|---|:--|\n| a | 1 |\n", "seems to be a Markdown table"),
    "one in text": ("x.txt", b"Foxes:\n\na | b\n---|---\na fox | 1\n", "seems to be a Markdown table"),
    "one in a table's file": (
        "x.csv",
        b"| prompt |\n|--------|\n| a fox |\n",
        "seems to be a Markdown table",
    ),
    "a log": ("x", b"2026-01-01 10:00:00 INFO a fox\n", "seems to be a log"),
}


@pytest.mark.parametrize("kind", OTHER_TEXTS)
def test_texts_that_are_no_prompts_are_refused(tmp_path: Path, kind: str) -> None:
    name, data, words = OTHER_TEXTS[kind]
    with pytest.raises(ManifestError, match=f"{words}.* --input-format txt"):
        read_bytes(tmp_path, name, data)
    assert read(tmp_path / name, format="txt"), "who insists is served"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.txt", b"# Foxes\na fox\n"),
        ("x.txt", b"[fox]\nnight=dark\n"),
        ("x", b"a fox = fast\na | b\n"),
        ("x", b"[fox|owl], large\n-- a fox --\n"),
        ("x.prompts", b'a fox; "quoted"\n1girl=2\n'),
    ],
)
def test_texts_that_only_look_a_little_like_others(tmp_path: Path, name: str, data: bytes) -> None:
    assert told(read_bytes(tmp_path, name, data)) == data.decode().splitlines()


def test_a_table_is_read_whatever_its_name(tmp_path: Path) -> None:
    assert told(read_bytes(tmp_path, "x.log", b"prompt,seed\na fox,1\n")) == ["a fox"]


@pytest.mark.parametrize(
    ("columns", "width", "height"),
    [
        ({"size": "512x768"}, 512, 768),
        ({"resolution": "64 x 128"}, 64, 128),
        ({"image_dimensions": "64*64"}, 64, 64),
        ({"size": "64x128", "width": 64}, 64, 128),
        ({"size": "large"}, 512, 512),
        ({"size": 12_345}, 512, 512),
    ],
)
def test_sizes_of_other_tools(tmp_path: Path, columns: dict[str, Any], width: int, height: int) -> None:
    assert told(read_bytes(tmp_path, "m.jsonl", row(**columns)), "width", "height") == [
        ("a fox", width, height)
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"size": "64x128", "height": 64}, "keep one"),
        ({"image_size": 64}, "'width' and 'height'"),
        ({"aspect_ratio": "16:9"}, "'width' and 'height'"),
        ({"w": 64, "h": 64}, "did you mean 'width'"),
        ({"H": "64"}, "did you mean 'height'"),
        ({"n": 4}, "did you mean 'num_images'"),
        ({"n": 1}, "did you mean 'num_images'"),
        ({"n": "fox"}, "did you mean 'num_images'"),
        ({"N": None}, "did you mean 'num_images'"),
        ({"num_outputs": 4}, "did you mean 'num_images'"),
        ({"num_images_per_prompt": 4}, "did you mean 'num_images'"),
        ({"batch_size": 4}, "did you mean 'num_images'"),
        ({"sampler_index": "DDIM"}, "did you mean 'sampler'"),
        ({"scheduler": "karras"}, "did you mean 'sampler'"),
        ({"sd_model": "x"}, "did you mean 'model'"),
        ({"ckpt_name": "x"}, "did you mean 'model'"),
        ({"negative": "blurry"}, "did you mean 'negative_prompt'"),
        ({"cfg": 7}, "did you mean 'guidance_scale'"),
        ({"denoise": 0.5}, "did you mean 'strength'"),
        ({"prompt_strength": 0.5}, "did you mean 'strength'"),
        ({"image": "a.png"}, "did you mean 'init_image'"),
        ({"mask": "a.png"}, "did you mean 'mask_image'"),
        ({"control_image": "a.png"}, "did you mean 'depth_image'"),
        ({"loras": ["x"]}, "did you mean 'lora'"),
    ],
)
def test_columns_of_other_tools_are_refused_with_the_way_out(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    (item,) = read_bytes(tmp_path, "m.jsonl", row(**columns))
    assert isinstance(item, Reject)
    assert words in item.reason
    if "keep one" not in words:
        assert f"--drop {item.column}" in item.reason
        dropped = RowRules(
            rules().models, "painter", {}, {}, dropped=frozenset(name.lower() for name in columns)
        )
        assert told(read(tmp_path / "m.jsonl", dropped), "meta") == [("a fox", {})]


def test_a_column_n_is_refused_in_all_rows_or_in_none(tmp_path: Path) -> None:
    items = read_bytes(tmp_path, "m.csv", b"prompt,n\na fox,0\na fox,1\na fox,4\na fox,\na fox,many\n")
    assert [item.column for item in items if isinstance(item, Reject)] == ["n"] * 5
    counted = rules(renames={"num_images": "n"})
    assert [getattr(item, "num_images", None) for item in read(tmp_path / "m.csv", counted)][1:4] == [1, 4, 1]


@pytest.mark.parametrize("columns", [{"image": {"path": "a.png"}}, {"aspect_ratio": 1.5}, {"w": 2}])
def test_values_that_mean_nothing_of_ours_are_kept(tmp_path: Path, columns: dict[str, Any]) -> None:
    assert told(read_bytes(tmp_path, "m.jsonl", row(**columns)), "meta") == [("a fox", columns)]


@pytest.mark.parametrize(
    ("columns", "prompt", "lora"),
    [
        ({"prompt": "a fox <lora:cat:0.8>"}, "a fox", "cat:0.8"),
        ({"prompt": "<lora:CAT> a fox, <lora:fog:-1> grey"}, "a fox, grey", "cat:1+fog:-1"),
        ({"prompt": "a fox <lora:cat:0.5>", "lora": "fog"}, "a fox", "cat:0.5+fog:1"),
    ],
)
def test_lora_tags_move_to_their_column(
    tmp_path: Path, columns: dict[str, Any], prompt: str, lora: str
) -> None:
    items = read_bytes(tmp_path, "m.jsonl", row(**columns) + b"\n" + row())
    assert told(items, "lora") == [
        (prompt, lora),
        ("a fox", ""),
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": "a <lora:nobody:1>"}, "unknown LoRA 'nobody'"),
        ({"prompt": "a <lora:cat:0.8:0.7>"}, "the weight of LoRA 'cat'"),
        ({"prompt": "a <lora:cat>", "lora": "cat"}, "named twice"),
        ({"prompt": "<lora:cat>"}, "prompt is empty"),
        ({"prompt": "a <lora:cat>", "model": "sketcher"}, "doesn't fit"),
    ],
)
def test_lora_tags_that_cant_be_reject_the_row(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    (item,) = read_bytes(tmp_path, "m.jsonl", row(**columns))
    assert words in told([item])[0][1]


@pytest.mark.parametrize(
    "prompt", ["\u200b", "\u00ad\ufeff", "\x1a", "\u3164", "\u2800\u2003", "\u202e\u2066", "\ufe0f"]
)
@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.json"])
def test_a_prompt_that_doesnt_show_is_empty(tmp_path: Path, name: str, prompt: str) -> None:
    rows = [{"prompt": prompt, "seed": 1}, {"prompt": f"{prompt}\u00e9", "seed": 1}]
    data = {
        "m.jsonl": "\n".join(json.dumps(values) for values in rows),
        "m.json": json.dumps(rows),
        "m.csv": "prompt,seed\n" + "".join(f'"{values["prompt"]}",1\n' for values in rows),
    }[name]
    bad, good = read_bytes(tmp_path, name, data.encode())
    assert told([bad])[0][1] == "prompt is empty"
    assert told([good]) == [f"{prompt}\u00e9"]


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "m.parquet")
    return folder / "m.parquet"


@pytest.mark.parametrize("column", ["seed", "num_images", "id", "tenant", "steps", "width"])
@pytest.mark.parametrize("value", [2.0**53, 2.0**53 + 2, 1.8446744073709552e19])
def test_floats_that_are_no_exact_whole_numbers_are_refused_everywhere(
    tmp_path: Path, column: str, value: float
) -> None:
    (tmp_path / "m.csv").write_text(f"prompt,{column}\na fox,{value:.1f}\n")
    (tmp_path / "m.jsonl").write_text(json.dumps({"prompt": "a fox", column: value}))
    paths = [tmp_path / "m.jsonl", parquet(tmp_path, prompt=["a fox"], **{column: [value]})]
    for path in [*paths, *([] if column in {"id", "tenant"} else [tmp_path / "m.csv"])]:
        (item,) = read(path)
        assert "no exact whole number" in told([item])[0][1], path


def test_whole_floats_below_are_read_everywhere(tmp_path: Path) -> None:
    columns = {"seed": 2.0**53 - 1, "num_images": 2.0, "id": 7.0, "tenant": 8.0, "steps": 4.0, "width": 64.0}
    expected = [("a fox", 2**53 - 1, 2, "7", "8", 4, 64)]
    path = parquet(tmp_path, prompt=["a fox"], **{name: [value] for name, value in columns.items()})
    (tmp_path / "m.jsonl").write_text(json.dumps({"prompt": "a fox"} | columns))
    for file in (path, tmp_path / "m.jsonl"):
        assert told(read(file), *columns) == expected
    assert "must be text" in told(read(parquet(tmp_path, prompt=["a"], id=[7.5])))[0][1]


def test_nan_in_parquet_is_a_missing_value(tmp_path: Path) -> None:
    nan = float("nan")
    path = parquet(tmp_path, prompt=["a", "b"], seed=[nan, 3.0], score=[0.5, nan], box=[[nan], [1.0]])
    assert told(read(path), "seed", "meta") == [
        ("a", None, {"score": 0.5, "box": [None]}),
        ("b", 3, {"score": None, "box": [1.0]}),
    ]


def test_columns_of_bytes_are_left_out_and_said(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        prompt=["a"],
        thumb=[b"\x89PNG"],
        image=[{"bytes": b"x", "path": "1.png"}],
        tags=[[b"x"]],
        label=["y"],
    )
    counts = LineCounts()
    with open_source(str(path)) as manifest:
        items = list(read_rows(manifest, rules(), counts))
    assert told(items, "meta") == [("a", {"label": "y"})]
    assert counts.left_out == ["thumb", "image", "tags"]


def test_text_that_a_tool_stored_as_bytes_is_text(tmp_path: Path) -> None:
    items = read(parquet(tmp_path, prompt=[b"a \xc3\xa9", b"\xff"], id=[b"1", b"2"]))
    assert told(items[:1], "id") == [("a é", "1")]
    assert isinstance(items[1], Reject)


def test_moments_beyond_the_calendar_reject_their_row(tmp_path: Path) -> None:
    at = pa.array([2**62, 1_000_000], pa.timestamp("us"))
    bad, good = read(parquet(tmp_path, prompt=["a", "b"], at=at))
    assert isinstance(bad, Reject)
    assert "no form as text" in bad.reason
    assert told([good], "meta") == [("b", {"at": "1970-01-01T00:00:01.000000"})]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.txt", b"a\n\n--steps 4\n\x1a\nb\xff\nc"),
        ("m.csv", b'sep=,\n\nprompt,x\na,1\n\n"b\nc",2\n,\n"open,3\nd\ne,5\n'),
        ("m.csv", b"prompt\r\r\ra\rb"),
        ("m.tsv", b'prompt\tx\n\n"a"\t1\n"b\nc"\t2\nd\n'),
        ("m.jsonl", b'{"prompt": "a"}\n\n{"prompt": 5}\n[1]\n{\n\xef\xbb\xbf\n{"prompt": "b"}'),
        ("m.json", b'[{"prompt": "a"},,\n{"prompt": 5}]'),
    ],
)
def test_lines_in_are_rows_rejects_and_the_rest(tmp_path: Path, name: str, data: bytes) -> None:
    lines = counted(tmp_path, name, data)
    assert lines.pop("read") == sum(lines.values())
    assert (lines["rows"] and lines["rejected"]) or name == "m.csv"
    if name != "m.json":
        assert sum(lines.values()) == len(data.replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sampler": "bogus"}, "--set sampler=bogus: unknown sampler"),
        ({"width": "65"}, "--set width=65: width must be a multiple of 8"),
        ({"height": "100000"}, "--set height=100000: height must be 64 to 2048"),
        ({"lora": "nobody"}, "unknown LoRA"),
        ({"lora": "cat", "model": "sketcher"}, "doesn't fit"),
        ({"sampler": "ddim", "model": "sketcher"}, "unknown sampler 'ddim'"),
        ({"upscale": "4", "model": "sketcher"}, "no 4x upscaler"),
        ({"seed": "9007199254740992.0"}, "no exact whole number"),
    ],
)
def test_an_override_that_no_row_can_take_is_one_error(
    tmp_path: Path, overrides: dict[str, str], words: str
) -> None:
    for name, data in (("m.txt", b"a fox\nan owl"), ("m.jsonl", row())):
        with pytest.raises(UsageError, match=words) as caught:
            read_bytes(tmp_path, name, data, rules(overrides))
        assert not isinstance(caught.value, ManifestError)


def test_an_override_that_some_model_can_take_is_left_to_the_rows(tmp_path: Path) -> None:
    given = rules({"width": "512"}, model="sketcher")
    assert len(read_bytes(tmp_path, "m.jsonl", row(model="painter"), given)) == 1
    with pytest.raises(UsageError, match="64 to 128"):
        read_bytes(tmp_path, "m.txt", b"a fox", given)


def test_comments_of_word_files_are_no_words(tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text(
        "# animals, public domain\ncat\n\n \\#1 dog\n  # birds\neagle # no comment\n"
    )
    (tmp_path / "r.yaml").write_text(
        'prompts: {template: "a {animal}"}\nvariables: {animal: {file: animals.txt}}\n'
    )
    assert told(read(tmp_path / "r.yaml")) == ["a cat", "a #1 dog", "a eagle # no comment"]
