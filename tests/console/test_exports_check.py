"""`nightmill exports check`, and what `export` and `doctor` say of time stamps."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.settings import Settings
from models.optional_packages import EXTRAS
from scheduler.export.exporters import exporter_of
from tests.console.conftest import Typed
from tests.scheduler.export.rfc3161_time_stamps.authority_server import (
    Authority,
    Served,
    make_authority,
    needs_openssl,
    serving,
    with_authority,
)
from tests.scheduler.export.rfc3161_time_stamps.test_stamp_shards import ROWS, rendered

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("own") / "tsa")


@pytest.fixture
def served(own: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("scheduler.export.rfc3161_time_stamps.authority_client._AGAIN_S", 0.0)
    with serving(own) as found:
        yield found


@pytest.fixture
def stamping(settings: Settings, served: Served, tmp_path: Path) -> Typed:
    return Typed(with_authority(settings, served), tmp_path)


@pytest.fixture
def offline(settings: Settings, tmp_path: Path) -> Typed:
    """Whoever was given the export: without database and authority."""
    given = {"database_url": SecretStr("postgresql://nobody@127.0.0.1:9/none")}
    return Typed(settings.model_copy(update=given), tmp_path)


@pytest.fixture
def folder(engine: Engine, stamping: Typed, tmp_path: Path) -> Path:
    name = rendered(engine, ROWS).name
    ended = stamping("export", name, "--format", "jsonl", "--to", str(tmp_path / "set"), "--json")
    assert (ended.code, ended.json["unstamped"]) == (0, 0), ended.err
    return tmp_path / "set"


def test_an_export_is_checked_without_a_database(offline: Typed, folder: Path, own: Authority) -> None:
    told = offline("exports", "check", str(folder), "--trust", str(own.trust_file), "--json")
    assert told.code == 0, told.err
    shard, rest = told.json
    assert (shard["number"], shard["stamp"], shard["authority"], shard["problem"]) == (
        0,
        "trusted",
        "CN=Time",
        None,
    )
    assert rest["number"] is None
    assert rest["files"] >= 3
    shown = offline("exports", "check", str(folder), "--trust", str(own.trust_file))
    assert (shown.code, "all files and time stamps are right" in shown.err) == (0, True)
    assert "CN=Time" in shown.out


def test_only_time_stamps_need_their_packages(
    offline: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "timestamps", ("absent_here",))
    told = offline("exports", "check", str(folder))
    assert (told.code, "nightmill[timestamps]" in told.err) == (2, True)
    record = json.loads((folder / "_SUCCESS").read_bytes())
    del record["shards"][0]["timestamp"]
    (folder / "_SUCCESS").write_text(json.dumps(record))
    assert offline("exports", "check", str(folder)).code == 0


def test_the_exit_code_says_whether_stamps_can_be_trusted(
    offline: Typed, stamping: Typed, folder: Path, tmp_path: Path
) -> None:
    told = offline("exports", "check", str(folder))
    assert (told.code, "name their certificates by --trust" in told.err) == (2, True)
    assert stamping("exports", "check", str(folder)).code == 0  # the setting names them
    stranger = make_authority(tmp_path / "stranger")
    told = offline("exports", "check", str(folder), "--trust", str(stranger.trust_file))
    assert (told.code, "1 time stamp by an authority that isn't trusted" in told.err) == (1, True)
    told = offline("exports", "check", str(folder), "--trust", str(folder / "_SUCCESS"))
    assert (told.code, "holds no certificates that can be read" in told.err) == (2, True)


def test_changed_files_and_stamps_taken_away_are_found(offline: Typed, folder: Path, own: Authority) -> None:
    trust = ("--trust", str(own.trust_file))
    record = json.loads((folder / "_SUCCESS").read_bytes())
    stamp = record["shards"][0].pop("timestamp")
    (folder / "_SUCCESS").write_text(json.dumps(record))
    told = offline("exports", "check", str(folder), *trust)
    assert (told.code, "1 sealed shard without a time stamp" in told.err) == (1, True)
    told = offline("exports", "check", str(folder))
    assert (told.code, "no shard has a time stamp" in told.err) == (0, True)
    record["shards"][0]["timestamp"] = stamp | {"response": stamp["response"][:-8] + "AAAAAAA="}
    (folder / "_SUCCESS").write_text(json.dumps(record))
    told = offline("exports", "check", str(folder), *trust)
    assert (told.code, "1 time stamp invalid" in told.err) == (1, True)
    (folder / "part-00000.jsonl").write_text("{}\n")
    (folder / "README.md").unlink()
    told = offline("exports", "check", str(folder), *trust)
    assert (told.code, "2 files missing or changed" in told.err) == (1, True)
    assert "changed: part-00000.jsonl" in told.out
    assert "missing: README.md" in told.out


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": [{"name": "a", "sha256": "b"}]}'])
def test_what_is_no_export_is_said_to_be_none(offline: Typed, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    if content is not None:
        (folder / "_SUCCESS").write_text(content)
    told = offline("exports", "check", str(folder))
    assert told.code == 2
    assert (
        "isn't there: name the folder of an export" if content is None else "isn't the record"
    ) in told.err


def test_an_authority_that_is_away_is_told_and_the_export_is_there(
    engine: Engine, stamping: Typed, served: Served, tmp_path: Path
) -> None:
    served.is_away = True
    name = rendered(engine, ROWS).name
    ended = stamping("export", name, "--format", "jsonl", "--to", str(tmp_path / "set"))
    assert ended.code == 0
    assert f"1 shard of {name} without a time stamp" in ended.err
    assert "answers with status 503; the same again asks for it once more" in ended.err
    assert "s3cret" not in ended.err
    served.is_away = False
    again = stamping("export", name, "--format", "jsonl", "--to", str(tmp_path / "set"))
    assert (again.code, "without a time stamp" in again.err) == (0, False)
    assert stamping("exports", "check", str(tmp_path / "set")).code == 0


def test_doctor_asks_for_a_time_stamp(stamping: Typed, offline: Typed, served: Served) -> None:
    def finding(typed: Typed) -> tuple[bool, str]:
        checks = {check["check"]: check for check in typed("doctor", "--json").json}
        return checks["time stamps"]["ok"], checks["time stamps"]["finding"]

    assert finding(stamping) == (True, "shards of exports get them from 127.0.0.1: CN=Time, trusted")
    served.is_away = True
    is_ok, told = finding(stamping)
    assert (is_ok, "answers with status 503" in told) == (False, True)
    assert finding(offline) == (True, "shards of exports get none: NIGHTMILL_TIMESTAMP_URL isn't set")


def test_a_setting_that_can_not_be_used_is_told_before_anything_is_done(
    stamping: Typed, tmp_path: Path
) -> None:
    broken = stamping.settings.model_copy(update={"timestamp_trust": tmp_path / "none.pem"})
    manifest = tmp_path / "one.jsonl"
    manifest.write_text('{"prompt": "a fox"}\n')
    for arguments in (("run", str(manifest), "--workers", "0"), ("up", "--workers", "0")):
        ended = Typed(broken, tmp_path)(*arguments)
        assert (ended.code, "NIGHTMILL_TIMESTAMP_TRUST" in ended.err) == (2, True), ended.err


def test_what_the_record_doesnt_list_is_told(offline: Typed, folder: Path, own: Authority) -> None:
    rows = next(folder.glob("part-*.jsonl"))
    (folder / "part-00777.jsonl").write_bytes(rows.read_bytes())
    (folder / "notes-of-mine.txt").write_text("not a part of it")
    told = offline("exports", "check", str(folder), "--trust", str(own.trust_file))
    assert (told.code, "1 file that `_SUCCESS` doesn't list" in told.err) == (1, True), told.err
    assert "not listed: part-00777.jsonl" in told.out
    (folder / "part-00777.jsonl").unlink()
    record = json.loads((folder / "_SUCCESS").read_text())
    gone = rows.name
    record["shards"] = [shard for shard in record["shards"] if gone not in shard["files"]]
    record["files"] = [file for file in record["files"] if file["name"] != gone]
    (folder / "_SUCCESS").write_text(json.dumps(record))
    rows.unlink()
    told = offline("exports", "check", str(folder), "--trust", str(own.trust_file))
    assert (told.code, f"not listed: {gone}" in told.out) == (1, True), told.out


def _unseal(shards: list[Any]) -> None:
    shards[0]["sealed"] = False
    del shards[0]["timestamp"]


def _empty(shards: list[Any]) -> None:
    shards[0]["files"] = []
    del shards[0]["timestamp"]


def _number_twice(shards: list[Any]) -> None:
    shards[:] = [shards[1] | {"number": 0}] * 2


def _take_out(number: int) -> Callable[[list[Any]], None]:
    return lambda shards: shards.pop(number)


def forge(folder: Path, name: str, change: Callable[[list[Any]], object]) -> None:
    """Replace a file, correct its digest wherever it is told, and change what is told of the shards."""
    digests = {}

    def replace(name: str, content: str) -> None:
        old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / name).write_text(content)
        digests[old] = hashlib.sha256(content.encode()).hexdigest()

    def corrected(text: str) -> str:
        for old, new in digests.items():
            text = text.replace(old, new)
        return text

    replace(name, '{"image_id": 1, "prompt": "forged"}\n')
    replace("SHA256SUMS", corrected((folder / "SHA256SUMS").read_text()))
    record = json.loads(corrected((folder / "_SUCCESS").read_text()))
    change(record["shards"])
    (folder / "_SUCCESS").write_text(json.dumps(record))


@pytest.fixture
def two_shards(engine: Engine, stamping: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(exporter_of("jsonl"), "shard_rows", ROWS)
    name = rendered(engine, 2 * ROWS).name
    ended = stamping("export", name, "--format", "jsonl", "--to", str(tmp_path / "two"), "--json")
    assert (ended.code, ended.json["unstamped"]) == (0, 0), ended.err
    return tmp_path / "two"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_unseal, ["1 shard not sealed"]),
        (_empty, ["1 file of no shard"]),
        (list.clear, ["2 files of no shard", "no shard is listed"]),
        (_take_out(0), ["1 file of no shard", "shard 0 isn't listed"]),
        (_number_twice, ["1 file of no shard", "shard 0 is listed twice"]),
    ],
)
def test_a_forged_file_is_found_whatever_is_said_of_its_shard(
    offline: Typed, two_shards: Path, own: Authority, change: Callable[[list[Any]], object], told: list[str]
) -> None:
    forge(two_shards, "part-00000.jsonl", change)
    ended = offline("exports", "check", str(two_shards), "--trust", str(own.trust_file))
    assert (ended.code, [each for each in told if each not in ended.err]) == (1, []), ended.err
    if change is not list.clear:  # without a stamp that is left, nothing asks for one
        assert offline("exports", "check", str(two_shards)).code == 1


def test_a_forged_file_of_the_last_shard_is_found(offline: Typed, two_shards: Path, own: Authority) -> None:
    forge(two_shards, "part-00001.jsonl", _take_out(1))
    ended = offline("exports", "check", str(two_shards), "--trust", str(own.trust_file))
    assert (ended.code, "1 file of no shard" in ended.err) == (1, True), ended.err
    assert "of no shard: part-00001.jsonl" in ended.out


def test_an_unfinished_export_is_said_to_be_one(offline: Typed, two_shards: Path, own: Authority) -> None:
    (two_shards / "_SUCCESS").rename(two_shards / "_INCOMPLETE")
    ended = offline("exports", "check", str(two_shards), "--trust", str(own.trust_file))
    assert (ended.code, "1 export not finished" in ended.err) == (1, True), ended.err
    assert "only shards that are sealed were checked" in ended.err
    record = json.loads((two_shards / "_INCOMPLETE").read_text())
    for shard in record["shards"]:
        del shard["timestamp"]
    (two_shards / "_INCOMPLETE").write_text(json.dumps(record))
    ended = offline("exports", "check", str(two_shards), "--json")
    assert (ended.code, "the export isn't finished" in ended.err) == (0, True), ended.err
    assert [each["finished"] for each in ended.json] == [True, True, False]


def test_rows_beside_images_in_folders_must_be_listed(
    offline: Typed, two_shards: Path, own: Authority
) -> None:
    (two_shards / "train" / "00000").mkdir(parents=True)
    (two_shards / "train" / "00000" / "metadata.parquet").write_bytes(b"forged")
    ended = offline("exports", "check", str(two_shards), "--trust", str(own.trust_file))
    assert (ended.code, "not listed: train/00000/metadata.parquet" in ended.out) == (1, True), ended.out


def test_an_answer_with_a_certificate_that_is_none_holds_up_no_export(
    engine: Engine, stamping: Typed, served: Served, tmp_path: Path
) -> None:
    served.change = lambda body: body.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020106"))
    name = rendered(engine, ROWS).name
    ended = stamping("export", name, "--format", "jsonl", "--to", str(tmp_path / "set"))
    assert ended.code == 0, ended.err
    assert "it doesn't hold the certificate that it was signed with" in ended.err
    assert (tmp_path / "set" / "_SUCCESS").exists()


def test_a_link_is_told_with_what_else_is_wrong(offline: Typed, folder: Path) -> None:
    (folder / "part-00000.jsonl").write_text("changed")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("SHA256SUMS")
    ended = offline("exports", "check", str(folder), "--json")
    shard, rest = ended.json
    assert (ended.code, shard["changed"], list(rest["unreadable"])) == (
        1,
        ["part-00000.jsonl"],
        ["README.md"],
    )
    assert "1 file missing or changed; 1 path that can't be read" in ended.err
    assert "README.md is a symbolic link" in offline("exports", "check", str(folder)).out
