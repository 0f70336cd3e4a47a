"""What `check_export_folder` tells of an export whose files can't all be read, or that has more than it should."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from jobs.errors import StoreDeniedError, StoreUnavailableError
from jobs.storage.base import note_unreadable
from jobs.storage.key_layout import export_folder
from jobs.storage.open import S3Options, open_store
from scheduler.export.check_export_folder import CheckedFiles, check_export_folder
from scheduler.export.exporters import format_names
from tests.s3 import start_s3

TAR, INDEX = "00000.tar", "00000.tar.idx"


def make_export(folder: Path, shards: list[list[str]], others: tuple[str, ...] = (), **more: Any) -> Path:
    """An export of files that hold their names, as far as a name of that length can be written."""
    names = [*(name for shard in shards for name in shard), *others]
    for name in names:
        if len(name) < 256:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    record = {
        "files": [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in names],
        "shards": [{"number": n, "sealed": True, "files": files} for n, files in enumerate(shards)],
    }
    (folder / "_SUCCESS").write_text(json.dumps(record | more))
    return folder


def checked(folder: Path) -> list[CheckedFiles]:
    return list(check_export_folder(open_store(str(folder), S3Options()), "", []))


def reasons(found: Mapping[str, str]) -> dict[str, str]:
    """The words that matter of each."""
    words = ("symbolic link", "File name too long", "Permission denied")
    return {name: next(each for each in words if each in reason) for name, reason in found.items()}


def test_what_cant_be_read_is_told_and_the_rest_is_checked(tmp_path: Path) -> None:
    long = "x" * 300
    folder = make_export(tmp_path / "set", [[TAR, INDEX, long], ["00001.tar"]], ("README.md", "SHA256SUMS"))
    for name, target in {INDEX: TAR, "README.md": "README.md", "SHA256SUMS": "nowhere"}.items():
        (folder / name).unlink()
        (folder / name).symlink_to(target)
    (folder / TAR).write_text("changed")
    (folder / "00001.tar").unlink()
    (folder / "00002.tar").symlink_to("/dev/null")
    first, second, others = checked(folder)
    assert reasons(first.unreadable) == {INDEX: "symbolic link", long: "File name too long"}
    assert (first.changed, first.missing, second.missing) == ([TAR], [], ["00001.tar"])
    assert reasons(others.unreadable) == {"README.md": "symbolic link", "SHA256SUMS": "symbolic link"}
    assert others.unlisted == ["00002.tar"]  # a reader would follow it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_not_be_read_is_told() -> None:
    with TemporaryDirectory() as place:  # pytest's folders are closed to others, too
        Path(place).chmod(0o711)
        _check_closed_folder(make_export(Path(place) / "set", [["data/a.parquet"]]))


def _check_closed_folder(folder: Path) -> None:
    store = open_store(str(folder), S3Options())
    (folder / "part-00009.csv").write_text("x")
    folder.chmod(0o755)
    (folder / "data").chmod(0o700)
    os.seteuid(65534)
    try:
        first, others = check_export_folder(store, "", [])
    finally:
        os.seteuid(0)
    assert reasons(first.unreadable) == {"data/a.parquet": "Permission denied"}
    assert reasons(others.unreadable) == {"data": "Permission denied"}
    assert others.unlisted == ["part-00009.csv"]


READ = {
    "parquet": ["more.parquet", "label=fox/mine.parquet", "PART.PARQUET"],
    "jsonl": ["more.jsonl", "part-x.jsonl", "part-00001.jsonl.gz"],
    "csv": ["more.csv"],
    "webdataset": ["more.tar", "more.parquet"],
    "hf": ["data/more.parquet"],
    "iceberg": [],
    "lance": [],
}
PICTURE = "train/00000/000000005-00000.aaaaaaaaaaaa"
USERS = ["notes.txt", ".more.parquet", ".more.tar", "more/a.csv", "pictures/a.png", "data/of-mine.lance"]


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


@pytest.mark.parametrize("format", format_names())
def test_what_readers_would_take_is_told(tmp_path: Path, format: str) -> None:
    folder = make_export(tmp_path / "set", [["part-00000.x"]], format=format, batch="foxes")
    named = [
        "_images/aa/" + "a" * 64 + ".png",
        "00009.tar",
        "data/00009-aaaaaaaaaaaa.lance",
        "part-00009.csv",
    ]
    put(folder, *USERS, *READ[format], *named)
    assert checked(folder)[-1].unlisted == sorted([*READ[format], *named])


@pytest.mark.parametrize("format", format_names())
def test_beside_the_images_only_names_of_exports_are_told(tmp_path: Path, format: str) -> None:
    place = tmp_path / export_folder("foxes", format)
    folder = make_export(place, [["part-00000.x"]], format=format, batch="foxes")
    put(folder, *USERS, *READ[format], "part-00009.csv")
    assert checked(folder)[-1].unlisted == ["part-00009.csv"]


def test_a_link_to_a_folder_is_told_where_readers_look_into_it(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for format, told in (("parquet", ["label=owl/", "more/"]), ("csv", [])):
        folder = make_export(tmp_path / format, [["part-00000.x"]], format=format, batch="foxes")
        for name in ("label=owl", "more", ".hidden"):
            (folder / name).symlink_to(tmp_path / "other")
        (folder / "to-nothing").symlink_to(tmp_path / "nothing")
        assert checked(folder)[-1].unlisted == told


def test_pictures_slipped_into_folders_of_images_are_told(tmp_path: Path) -> None:
    rows, image = "train/00000/metadata.parquet", PICTURE.replace("5-", "4-") + ".png"
    for place in ("set", "foxes/export-hf"):
        folder = make_export(tmp_path / place, [[rows, image]], format="hf", batch="foxes")
        put(
            folder,
            f"{PICTURE}.png",
            f"{PICTURE}.c2pa",
            "train/more/A.JPG",
            "train/more/note.txt",
            "val/a.png",
        )
    assert checked(tmp_path / "set")[-1].unlisted == [f"{PICTURE}.c2pa", f"{PICTURE}.png", "train/more/A.JPG"]
    assert checked(tmp_path / "foxes/export-hf")[-1].unlisted == [f"{PICTURE}.c2pa", f"{PICTURE}.png"]


def test_a_store_that_is_gone_ends_the_check(tmp_path: Path) -> None:
    folder = make_export(tmp_path / "set", [[TAR]])
    with ExitStack() as stack:
        server = stack.enter_context(start_s3())
        store = open_store(
            f"{server.uri}/set",
            S3Options(endpoint_url=server.endpoint_url, region="eu-central-1", max_attempts=1),
        )
        for name in ("_SUCCESS", TAR):
            store.put(name, (folder / name).read_bytes(), content_type="text/plain")
        with pytest.raises(StoreUnavailableError):
            list(check_export_folder(store, "", [], on_file=stack.close))


def test_a_store_that_refuses_the_key_ends_the_check() -> None:
    told: dict[str, str] = {}
    with pytest.raises(StoreDeniedError), note_unreadable(told, TAR):
        raise StoreDeniedError("access denied")
    assert not told
