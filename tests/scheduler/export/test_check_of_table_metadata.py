"""An export as a table is told to be damaged when its library can't open it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import lance
import pytest
from pyiceberg.table import StaticTable
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.storage.open import S3Options, open_store
from scheduler.export.check_export_folder import CheckedFiles, check_export_folder
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.run_export import export
from tests.s3 import S3Server
from tests.scheduler.export.datasets import with_pictures

LOCAL = S3Options()


def exported(engine: Engine, tmp_path: Path, format: str, uri: str, s3: S3Options = LOCAL) -> CheckedFiles:
    batch = with_pictures(engine, tmp_path / "images", 2)
    source, options = open_store(batch.output, S3Options()), ExportOptions(columns=("image_id", "prompt"))
    request = ExportRequest(
        [actions.status(engine, batch.name)], format, open_store(uri, s3), options=options
    )
    export(engine, request, lambda _: source)
    return checked(uri, s3)


def checked(uri: str, s3: S3Options = LOCAL) -> CheckedFiles:
    *_, others = check_export_folder(open_store(uri, s3), "", [])
    return others


def faults(uri: str) -> tuple[list[str], list[str]]:
    found = checked(uri)
    return found.missing, list(found.unreadable)


def opened(folder: Path, format: str) -> None:
    """Read the table as its library does."""
    if format == "lance":
        lance.dataset(str(folder)).to_table(["prompt"])
    else:
        table = json.loads((folder / "_SUCCESS").read_text())["table"]
        StaticTable.from_metadata(table["metadata"]).scan().to_arrow()


@pytest.fixture
def folder(engine: Engine, tmp_path: Path, format: str) -> Path:
    found = exported(engine, tmp_path, format, str(tmp_path / "set"))
    assert (found.missing, found.changed, found.unreadable, found.unlisted) == ([], [], {}, [])
    return tmp_path / "set"


def named(folder: Path) -> Path:
    """The file that `_SUCCESS` names."""
    table = json.loads((folder / "_SUCCESS").read_text())["table"]
    if "metadata" in table:
        return Path(table["metadata"].removeprefix("file://"))
    return folder / "_versions" / f"{2**64 - 1 - table['version']:020}.manifest"


def remove_all(folder: Path) -> list[str]:
    file = named(folder)
    shutil.rmtree(file.parent)
    return [file.relative_to(folder).as_posix()]


def remove_named(folder: Path) -> list[str]:
    """That one and all later ones."""
    file = named(folder)
    for other in file.parent.iterdir():
        if ".m" in other.name:
            other.unlink()
    return [file.relative_to(folder).as_posix()]


def remove_manifest_lists(folder: Path) -> list[str]:
    table = json.loads(named(folder).read_text())
    path = next(
        s["manifest-list"] for s in table["snapshots"] if s["snapshot-id"] == table["current-snapshot-id"]
    )
    Path(path.removeprefix("file://")).unlink()
    return [f"metadata/{Path(path).name}"]


@pytest.mark.parametrize(
    ("format", "damage"),
    [
        ("lance", remove_all),
        ("lance", remove_named),
        ("iceberg", remove_all),
        ("iceberg", remove_named),
        ("iceberg", remove_manifest_lists),
    ],
)
def test_metadata_that_is_gone_is_missing(
    folder: Path, format: str, damage: Callable[[Path], list[str]]
) -> None:
    opened(folder, format)
    gone = damage(folder)
    with pytest.raises((OSError, ValueError)):
        opened(folder, format)
    assert faults(str(folder)) == (gone, [])


@pytest.mark.parametrize("format", ["lance", "iceberg"])
def test_metadata_that_was_cut_off_or_is_a_link_cant_be_read(
    folder: Path, tmp_path: Path, format: str
) -> None:
    files = [file for file in named(folder).parent.iterdir() if ".m" in file.name]
    content = named(folder).read_bytes()
    for file in files:
        file.write_bytes(content[:-20])
    (missing, (name,)) = faults(str(folder))
    assert (missing, folder / name in files) == ([], True)
    (tmp_path / "kept").write_bytes(content)
    for file in files:
        file.unlink()
        file.symlink_to(tmp_path / "kept")
    assert faults(str(folder)) == ([], [name])


@pytest.mark.parametrize("format", ["lance"])
def test_commits_of_others_are_no_fault(folder: Path) -> None:
    dataset = lance.dataset(str(folder))
    dataset.add_columns({"length": "length(prompt)"})
    named(folder).unlink()
    opened(folder, "lance")
    assert checked(str(folder)).missing == []


@pytest.mark.parametrize("format", ["iceberg"])
def test_a_table_that_another_catalog_keeps_elsewhere_is_not_looked_for(folder: Path) -> None:
    record = json.loads((folder / "_SUCCESS").read_text())
    gone = remove_all(folder)
    record["table"] |= {"catalog": "theirs", "metadata": "s3://theirs/metadata/00001-x.metadata.json"}
    assert faults(str(folder)) == (gone, [])
    (folder / "_SUCCESS").write_text(json.dumps(record))
    assert faults(str(folder)) == ([], [])


@pytest.mark.parametrize("format", ["lance", "iceberg"])
def test_in_s3(engine: Engine, tmp_path: Path, s3: S3Server, format: str) -> None:
    options = S3Options(endpoint_url=s3.endpoint_url, region="eu-central-1")
    place = f"{s3.uri}/checked-{format}"
    found = exported(engine, tmp_path, format, place, options)
    assert (found.missing, found.unreadable, found.unlisted) == ([], {}, [])
    store = open_store(place, options)
    for each in [*store.list("_versions/"), *store.list("metadata/")]:
        store.delete(each.key)
    (gone,) = checked(place, options).missing
    assert gone.startswith(("_versions/", "metadata/"))
