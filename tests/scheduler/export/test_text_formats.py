"""JSON lines and CSV: read by jq and pandas; null stays null, and no text is a formula."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine

from scheduler.export.rows.find_meta_columns import find_meta_columns
from tests.factories import change
from tests.scheduler.export.datasets import with_pictures, write

TEXTS = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "plain", "a=b", "'quoted", '"', "two\nlines", "＝1", ""]


def exported(engine: Engine, tmp_path: Path, format: str, rows: Any, **options: Any) -> Path:
    """The only file of an export of a batch of these rows."""
    batch = with_pictures(engine, tmp_path / "output", rows)
    given = {"meta_columns": find_meta_columns(engine, [batch.id])} | options
    (file,) = write(engine, batch, format, tmp_path / "export", **given)
    return tmp_path / "export" / file.name


def test_csv_has_no_formulas_and_its_numbers_stay_numbers(engine: Engine, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "note": text, "score": -1.5} for text in TEXTS]
    path = exported(engine, tmp_path, "csv", rows)
    frame = pd.read_csv(path, keep_default_na=False, na_values={"meta.score": [""], "row_id": [""]})
    guarded = [f"'{text}" if text and text[0] in "=+-@\t\r＝" else text for text in TEXTS]
    assert frame["meta.note"].tolist() == guarded
    assert frame["meta.score"].tolist() == [-1.5] * len(TEXTS)
    assert frame["width"].dtype == "int64"
    assert frame["nsfw_content_detected"].dtype == bool
    assert frame["row_id"].isna().all()


def test_csv_tells_empty_text_from_null(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path, "csv", [{"prompt": "a", "note": ""}, {"prompt": "b"}])
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith('"image_id","batch"')
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert frame["meta.note"].tolist() == ["", ""]
    assert [line.endswith('""') for line in text.splitlines()[1:]] == [True, False]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_only_the_columns_asked_for(engine: Engine, tmp_path: Path, format: str) -> None:
    path = exported(engine, tmp_path, format, 2, columns=("prompt", "nsfw_content_detected"))
    lines = path.read_text().splitlines()
    if format == "csv":
        assert lines == ['"prompt","nsfw_content_detected"', '"fox 0",false', '"fox 1",false']
    else:
        assert lines[1] == '{"prompt":"fox 1","nsfw_content_detected":false}'


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_images_are_embedded_as_base64(engine: Engine, tmp_path: Path, format: str) -> None:
    path = exported(engine, tmp_path, format, 2, embed_images=True)
    frame = pd.read_csv(path) if format == "csv" else pd.read_json(path, lines=True)
    for key, encoded in zip(frame["key"], frame["image"], strict=True):
        assert base64.b64decode(encoded) == (tmp_path / "output" / key).read_bytes()


def test_json_lines_nest_values_and_keep_null(engine: Engine, tmp_path: Path) -> None:
    meta = {"nested": {"a": [1, 2.50, None]}, "Ünï": "\u2028☃", "none": None}
    path = exported(engine, tmp_path, "jsonl", [{"prompt": "a\nb"} | meta])
    (line,) = path.read_text(encoding="utf-8").split("\n")[:-1]
    row = json.loads(line)
    assert row["meta"] == meta
    assert (row["row_id"], row["nsfw_content_detected"]) == (None, False)
    assert row["path"] == row["key"]
    assert "Ünï" in line
    assert not any(name.startswith(("meta.", "timings.")) for name in row)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq isn't installed")
def test_jq_reads_json_lines(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path, "jsonl", [{"prompt": f"p{n}", "label": n % 2} for n in range(4)])
    query = "select(.meta.label == 1) | [.prompt, .quality.clip_score, .init_image] | @json"
    found = subprocess.run(["jq", "-r", query, path], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines() == ['["p1",31.25,null]', '["p3",31.25,null]']


def test_a_batch_without_images_has_a_file_with_the_header(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 1)
    change(engine, "DELETE FROM images")
    for format, content in (("csv", '"prompt","seed"\n'), ("jsonl", "")):
        (file,) = write(engine, batch, format, tmp_path / "export", columns=("prompt", "seed"))
        assert (tmp_path / "export" / file.name).read_text() == content
