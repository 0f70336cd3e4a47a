"""A renamed batch: rows, exports and events say the new name, files stay, and every command finds them."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.storage.open import S3Options, open_store
from tests.console.conftest import Typed
from tests.factories import await_feed, look, make_batch
from tests.ownership import render


@pytest.fixture
def output(typed: Typed, engine: Engine, tmp_path: Path) -> Path:
    """Three images of the batch `foxes` with an export beside them and another elsewhere."""
    output = tmp_path / "out"
    render(
        engine, open_store(str(output), S3Options()), make_batch(engine, 3, name="foxes", output=str(output))
    )
    assert typed("export", "foxes", "--format", "jsonl").code == 0
    assert typed("export", "foxes", "--format", "jsonl", "--to", str(tmp_path / "copy")).code == 0
    return output


def test_rows_exports_and_events_say_the_new_name(
    typed: Typed, engine: Engine, output: Path, tmp_path: Path
) -> None:
    before = {path for path in output.rglob("*") if path.is_file()}
    ended = typed("rename", "foxes", "owls", "--json")
    assert ended.json == {"batch": 1, "name": "owls", "former_name": "foxes", "folder": f"{output}/foxes"}
    await_feed(engine)
    rows = [json.loads(line) for line in typed("feed", "--events", "image,batch").out.splitlines()]
    assert {row["batch"] for row in rows if row["event"] == "image"} == {"owls"}
    assert [row["detail"] for row in rows if row["event"] == "batch"][-1] == {"renamed_from": "foxes"}
    for to in ((), ("--to", str(tmp_path / "copy"))):
        again = typed("export", "owls", "--format", "jsonl", *to)
        assert again.code == 0, again.err
    for part in (output / "foxes" / "export-jsonl", tmp_path / "copy"):
        lines = (part / "part-00000.jsonl").read_text()
        assert (lines.count('"batch":"owls"'), lines.count('"batch":"foxes"')) == (3, 0)
    assert {path for path in output.rglob("*") if path.is_file()} == before
    assert typed("exports", "--json").json[0]["name"] == "owls"


def test_commands_find_the_files(typed: Typed, engine: Engine, output: Path, tmp_path: Path) -> None:
    assert typed("rename", "foxes", "owls").code == 0
    assert typed("check", "owls", "--json").json["missing"] == []
    (first, *_) = look(engine, "SELECT id, key FROM images ORDER BY id")
    taken = typed("retract", str(first["id"]), "--reason", "wrong", "--json").json
    assert (taken["retracted"], taken["deleted_files"]) == (1, 1)
    assert not (output / first["key"]).exists()
    moved = typed("move", "owls", str(tmp_path / "new"), "--yes", "--json")
    assert (moved.code, moved.json["images"]) == (0, 2), moved.err
    assert not (output / "foxes").exists()
    assert len(list((tmp_path / "new" / "foxes" / "images").rglob("*.png"))) == 2
    assert typed("sweep", "owls", "--dry-run").code == 0
    assert typed("delete", "owls", "--files", "--yes").code == 0
    assert not (tmp_path / "new" / "foxes").exists()


def test_neither_a_name_nor_a_folder_is_given_twice(typed: Typed, engine: Engine, output: Path) -> None:
    del output
    assert typed("rename", "foxes", "owls").code == 0
    make_batch(engine, 1, name="mice")
    for name, reason in (
        ("mice", "the name 'mice' is that of a batch"),
        ("Owls!", "'Owls!' can't name a batch"),
        ("12", "'12' can't name a batch"),
    ):
        refused = typed("rename", "owls", name)
        assert (refused.code, reason in refused.err) == (2, True), refused.err
    assert typed("rename", "mice", "cats").code == 2  # it has a job that hasn't ended
    with pytest.raises(Exception, match="'foxes' belongs to a batch"):
        make_batch(engine, 1, name="foxes")
    assert typed("delete", "mice", "--yes").code == 2
    assert typed("cancel", "mice").code == 0
    assert "was the first one of a batch" in typed("rename", "mice", "foxes").err
    assert typed("rename", "owls", "foxes").code == 0
    assert look(engine, "SELECT name, folder FROM batches WHERE id = 1") == [
        {"name": "foxes", "folder": None}
    ]
