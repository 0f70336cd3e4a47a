"""An export format in one module: registered, it is an option of the command and writes files that are ours."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.cli import main
from jobs.errors import UsageError
from jobs.settings import Settings
from scheduler.export import exporters
from scheduler.export.exporters import exporter_of, format_names
from tests.scheduler.export.test_export import finished

MODULE = '''
from scheduler.export.exporters import Exporter, WrittenFile, exporter


@exporter("paths", shard_rows=1000)
class PathsExporter(Exporter):
    """One key a line."""

    def write(self, folder, shard):
        name = f"part-{shard.number:05d}.paths"
        keys = [key for rows in shard.images for key in rows.column("key").to_pylist()]
        (folder / name).write_text("".join(key + "\\n" for key in keys))
        return [WrittenFile(name, "text/plain", len(keys))]
'''


@pytest.fixture
def paths_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The format in a module of its own."""
    (tmp_path / "paths_exporter.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(exporters, "_REGISTERED", {})
    import_module("paths_exporter")
    yield
    del sys.modules["paths_exporter"]


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command in this process."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["nightmill", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_file_of_another_name_is_told_and_helpers_are_no_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_shared", "comma"):
        (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr(exporters, "_FOLDER", tmp_path)
    monkeypatch.setattr(exporters, "_REGISTERED", {})
    monkeypatch.setitem(sys.modules, "scheduler.export.formats.comma", sys)
    assert format_names() == ["comma"]
    with pytest.raises(UsageError, match=r"formats/comma\.py registers no @exporter"):
        exporter_of("comma")


@pytest.mark.usefixtures("paths_format")
def test_a_format_in_one_module_is_an_option_of_the_command(
    settings: Settings,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    batch = finished(engine, name="foxes")
    export = "export", "foxes", "--format", "paths", "--to", str(tmp_path / "keys"), "--json"
    for _ in range(2):  # the second replaces the first, whose files are known as ours
        assert run(settings, monkeypatch, *export) == 0
        written = json.loads(capsys.readouterr().out)
        assert (written["format"], written["images"]) == ("paths", batch.counts["done"])
    lines = (tmp_path / "keys" / "part-00000.paths").read_text().splitlines()
    assert len(lines) == batch.counts["done"]
    assert all("/images/" in line for line in lines)


def test_without_it_the_format_is_unknown_and_the_known_ones_are_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert format_names() == ["csv", "hf", "iceberg", "jsonl", "lance", "parquet", "webdataset"]
    with pytest.raises(UsageError, match="there are csv, hf, iceberg, jsonl, lance, parquet, webdataset"):
        exporter_of("paths")
    assert run(settings, monkeypatch, "export", "foxes", "--format", "paths") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "'paths' is not one of 'csv', 'hf', 'iceberg', 'jsonl', 'lance', 'parquet', 'webdataset'"
        in told.replace("│ │ ", "")
    )
