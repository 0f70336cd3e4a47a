"""Iceberg tables by the command line: exported, deleted and moved with the batch, and refused in one clear line."""

from contextlib import closing
from pathlib import Path

import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from sqlalchemy import Engine

from jobs.exports import records
from jobs.process_lifecycle import SignalSafeEvent
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.export.live_exports import LiveExports
from tests.console.conftest import Typed
from tests.factories import make_batch
from tests.ownership import render


@pytest.fixture
def output(typed: Typed, engine: Engine, tmp_path: Path) -> Path:
    """Where the batch `foxes` lies, which has three images."""
    batch = make_batch(engine, 3, name="foxes", output=str(tmp_path / "out"))
    render(engine, open_store(str(tmp_path / "out"), S3Options()), batch)
    return tmp_path / "out"


def tables(uri: str, name: str = "nightmill") -> dict[str, Table]:
    with closing(load_catalog(name, uri=uri)) as found:
        names = [name for space in found.list_namespaces() for name in found.list_tables(space)]
        return {".".join(name): found.load_table(name) for name in names}


class TestTable:
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/lake.db"

    @pytest.fixture(autouse=True)
    def _exported(self, typed: Typed, output: Path, uri: str) -> None:
        assert output.is_dir()
        ended = typed("export", "foxes", "--format", "iceberg", "--catalog", uri, "--table", "lake.foxes")
        assert ended.code == 0, ended.err
        assert "3 rows" in ended.out

    def test_is_kept_by_an_export_that_names_none(self, typed: Typed, uri: str, output: Path) -> None:
        assert typed("export", "foxes", "--format", "iceberg", "--json").json["complete"]
        (table,) = tables(uri).values()
        assert (table.name(), table.location()) == (
            ("lake", "foxes"),
            f"file://{output}/foxes/export-iceberg",
        )
        assert table.scan().to_arrow().num_rows == 3
        assert typed("exports", "--json").json[0]["options"] == {
            **{"catalog": uri, "table": "lake.foxes", "path_prefix": "../../"}
        }

    def test_keeps_its_name_when_the_batch_is_renamed(self, typed: Typed, uri: str) -> None:
        assert typed("export", "foxes", "--format", "iceberg", "--to", "own").code == 0
        assert typed("rename", "foxes", "owls").code == 0
        assert typed("export", "owls", "--format", "iceberg", "--to", "own").code == 0
        shown = typed("exports", "--json").json
        assert [each["options"]["table"] for each in shown] == ["lake.foxes", "nightmill.foxes"]
        assert typed("export", "owls", "--format", "iceberg").code == 0
        rows = tables(uri)["lake.foxes"].scan().to_arrow()
        assert set(rows["batch"].to_pylist()) == {"owls"}
        assert typed("delete", "owls", "--files", "--yes").code == 0
        assert tables(uri) == {}

    def test_goes_with_the_files_of_its_batch(self, typed: Typed, uri: str, output: Path) -> None:
        assert typed("delete", "foxes", "--files", "--yes").code == 0
        assert tables(uri) == {}
        assert not list((output / "foxes").rglob("*"))

    def test_stays_with_files_that_stay(self, typed: Typed, uri: str) -> None:
        assert typed("exports", "forget", "1", "--yes").code == 0
        assert typed("delete", "foxes", "--yes").code == 0
        assert tables(uri)["lake.foxes"].scan().to_arrow().num_rows == 3

    def test_moves_with_the_batch(self, typed: Typed, uri: str, output: Path, tmp_path: Path) -> None:
        ended = typed("move", "foxes", str(tmp_path / "new"), "--yes")
        assert ended.code == 0, ended.err
        table = tables(uri)["lake.foxes"]
        assert table.location() == f"file://{tmp_path}/new/foxes/export-iceberg"
        assert table.scan().to_arrow().num_rows == 3
        assert not list((output / "foxes").rglob("*"))


def test_a_catalog_of_pyiceberg_s_configuration(typed: Typed, output: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/lake.db"
    (tmp_path / ".pyiceberg.yaml").write_text(f"catalog:\n  lake:\n    uri: {uri}\n")
    ended = typed("export", "foxes", "--format", "iceberg", "--catalog", "lake")
    assert ended.code == 0, ended.err
    assert list(tables(uri, "lake")) == ["nightmill.foxes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "iceberg", "--catalog", "laek"], "pyiceberg has no catalog 'laek'"),
        (["--format", "iceberg", "--catalog", "postgresql://me:secret@host/x"], "a URI with a password"),
        (
            ["--format", "iceberg", "--table", "a b"],
            "--table: 'a b' is no name of a table: write NAMESPACE.NAME",
        ),
        (
            ["--format", "parquet", "--catalog", "lake"],
            "--catalog is for the format iceberg, not for parquet",
        ),
    ],
)
def test_wrong_use(typed: Typed, output: Path, arguments: list[str], words: str) -> None:
    ended = typed("export", "foxes", *arguments)
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert words in " ".join(ended.err.split())
    assert "secret" not in ended.err


@pytest.mark.usefixtures("output")
class TestWithoutTheExtra:
    @pytest.fixture(autouse=True)
    def _is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.optional_packages._is_there", lambda name: name != "pyiceberg")

    @pytest.mark.parametrize("command", ["export foxes", "submit foxes.jsonl", "run foxes.jsonl"])
    def test_one_line_says_so(self, typed: Typed, tmp_path: Path, command: str) -> None:
        (tmp_path / "foxes.jsonl").write_text('{"prompt": "fox"}\n')
        ended = typed(*command.split(), "--format", "iceberg")
        assert ended.code == 2
        assert "the export format iceberg needs pyiceberg: pip install 'nightmill[iceberg]'" in ended.err

    def test_a_scheduler_notes_it_and_goes_on(
        self, typed: Typed, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        for format in ("iceberg", "jsonl"):
            assert typed("export", "foxes", "--format", format).code == 0
        monkeypatch.setattr("models.optional_packages._is_there", lambda name: name != "pyiceberg")
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE exports SET is_live = true")
            connection.exec_driver_sql("UPDATE export_shards SET generation = generation + 1")
        assert LiveExports(settings, engine, SignalSafeEvent()).step() == 1
        errors = {export.format: export.error for export in records.exports_of(engine)}
        assert errors["jsonl"] is None
        assert "pip install 'nightmill[iceberg]'" in (errors["iceberg"] or "")
