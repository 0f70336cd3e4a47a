"""A batch is moved to another output: nothing is lost, nothing of others goes, and a cut-off call is taken up."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from jobs.batches import move_images_to_another_output as move_files
from jobs.exports.records import add_shards, create, exports_of, move_exports
from jobs.feed import feed
from jobs.outputs.ownership import read_owner
from jobs.storage.open import S3Options, open_store
from scheduler.ingest.ingest import Ingested
from tests.console.conftest import Typed
from tests.end_to_end.processes import until
from tests.factories import look, make_batch
from tests.ownership import give_to_another, render
from tests.s3 import S3Server


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".nightmill")
    }


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old"


@pytest.fixture
def batch(typed: Typed, engine: Engine, old: Path) -> Ingested:
    """Five images, an export and a contact sheet beside them."""
    batch = make_batch(engine, 5, name="foxes", output=str(old))
    store = open_store(str(old), S3Options())
    render(engine, store, batch)
    store.put("foxes/contact-sheet.png", b"a sheet", content_type="image/png")
    assert typed("export", "foxes", "--format", "jsonl").code == 0
    return batch


@pytest.mark.usefixtures("batch")
class TestMove:
    def test_images_rows_exports_and_sheet_go_along(
        self, typed: Typed, engine: Engine, old: Path, tmp_path: Path
    ) -> None:
        before = files(old)
        (old / "foxes" / "mine.txt").write_text("stays")
        ended = typed("move", "foxes", str(tmp_path / "new"), "--yes", "--json")
        assert (ended.code, ended.json["images"], ended.json["exports"]) == (0, 5, ["jsonl"]), ended.err
        assert files(old) == {"foxes/mine.txt": b"stays"}
        assert "1 file not written by nightmill left in" in ended.err
        after = files(tmp_path / "new")
        kept = {name: body for name, body in before.items() if "export" not in name}
        assert len(kept) == 6
        assert {name: body for name, body in after.items() if "export" not in name} == kept
        rows = until(
            lambda: list(feed.read(engine))
        )  # other tests' transactions may hold it back for a moment
        assert {row["uri"].split("/foxes/")[0] for row in rows} == {str(tmp_path / "new")}
        rows = [
            json.loads(line) for line in after["foxes/export-jsonl/part-00000.jsonl"].decode().splitlines()
        ]
        assert {row["uri"].split("/foxes/")[0] for row in rows} == {str(tmp_path / "new")}
        assert typed("check", "foxes").code == 0
        again = typed("move", "foxes", str(tmp_path / "new"), "--yes")
        assert again.code == 0
        assert files(tmp_path / "new").keys() == after.keys()

    def test_to_s3_and_back(self, typed: Typed, engine: Engine, old: Path, s3: S3Server) -> None:
        typed = Typed(typed.settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url}), typed.folder)
        before = {name: body for name, body in files(old).items() if "images" in name}
        assert typed("move", "foxes", f"{s3.uri}/moved", "--yes").code == 0
        assert typed("check", "foxes").code == 0
        assert files(old) == {}
        assert typed("move", "foxes", str(old), "--yes").code == 0
        assert {name: body for name, body in files(old).items() if "images" in name} == before
        store = open_store(f"{s3.uri}/moved", S3Options(s3.endpoint_url, "us-east-1"))
        assert [found.key for found in store.list("")] == []
        assert len(look(engine, "SELECT FROM images")) == 5

    def test_a_call_that_is_cut_off_is_taken_up(
        self, typed: Typed, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = files(old)

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        for step in ("_copy_contact_sheet", "delete_files"):
            with monkeypatch.context() as patch:
                patch.setattr(move_files, step, stop)
                assert typed("move", "foxes", str(tmp_path / "new"), "--yes").code == 130
            assert files(old) == before
            assert typed("check", "foxes").code == 0, "the rows name images that are there"
        assert typed("move", "foxes", str(tmp_path / "new"), "--yes").code == 0
        assert files(old) == {}
        assert typed("check", "foxes").code == 0

    def test_an_image_that_is_not_what_its_row_says_stops_it(
        self, typed: Typed, old: Path, tmp_path: Path
    ) -> None:
        path = sorted((old / "foxes" / "images").rglob("*.png"))[2]
        path.write_bytes(b"another")
        before = files(old)
        ended = typed("move", "foxes", str(tmp_path / "new"), "--yes")
        assert (ended.code, "differs from its row: `nightmill check --repair`" in ended.err) == (1, True)
        assert files(old) == before
        assert json.loads(typed("status", "foxes", "--json").out)["output"] == str(old)

    def test_a_folder_of_another_installation_is_refused(
        self, typed: Typed, engine: Engine, old: Path, tmp_path: Path
    ) -> None:
        store = open_store(str(tmp_path / "new"), S3Options())
        other = make_batch(engine, 1, name="foxes-2", output=str(tmp_path / "new"))
        assert other.name == "foxes-2"
        store.put(
            "foxes/.nightmill-owner.json",
            store.get("foxes-2/.nightmill-owner.json"),
            content_type="application/json",
        )
        give_to_another(store, "foxes")
        before = files(old)
        ended = typed("move", "foxes", str(tmp_path / "new"), "--yes")
        assert (ended.code, "belongs to another installation" in ended.err) == (2, True)
        assert files(old) == before


@pytest.mark.usefixtures("batch")
def test_its_own_folder_is_no_place_for_it(typed: Typed, old: Path) -> None:
    before = files(old)
    ended = typed("move", "foxes", str(old / "foxes" / "deep"), "--yes")
    assert (ended.code, "the folder of a batch" in ended.err) == (2, True)
    assert files(old) == before


@pytest.mark.usefixtures("batch")
def test_what_a_killed_copy_left_goes_with_the_batch(typed: Typed, old: Path) -> None:
    (old / "foxes" / "images" / "000000" / "~nightmill-0123456789abcdef").write_bytes(b"half a picture")
    assert typed("delete", "foxes", "--files", "--yes").code == 0
    assert not (old / "foxes").exists()


def test_exports_in_folders_of_other_batches_stay_where_they_are(engine: Engine, old: Path) -> None:
    """A name may hold a `_`, which stands for any character in SQL patterns."""
    batch = make_batch(engine, 1, name="f_x", output=str(old))
    given: dict[str, Any] = {"installation": uuid4(), "name": "foxes", "format": "jsonl", "options": {}}
    with engine.begin() as connection:
        for prefix in ("f_x/export-jsonl/", "fox/export-jsonl/"):
            place = (str(old), prefix)
            export = create(
                connection, **given, place=place, shard_rows=10, is_live=False, replaced={}, columns=()
            )
            add_shards(connection, export.id, [batch.id])
        move_exports(connection, batch.id, str(old), "/new", "f_x/")
    found = {export.prefix: export.output for export in exports_of(engine, batch.id)}
    assert found == {"f_x/export-jsonl/": "/new", "fox/export-jsonl/": str(old)}


def test_a_batch_that_renders_stays_where_it_is(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    make_batch(engine, 2, name="foxes", output=str(tmp_path / "old"))
    ended = typed("move", "foxes", str(tmp_path / "new"), "--yes")
    assert (ended.code, "2 jobs that haven't ended" in ended.err) == (2, True)
    owner = read_owner(open_store(str(tmp_path / "old"), S3Options()), "foxes")
    assert owner is not None
    assert not (tmp_path / "new").exists()
