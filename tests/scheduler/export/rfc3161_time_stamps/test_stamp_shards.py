"""Sealed shards have time stamps in `_SUCCESS`; an authority that is away holds up nothing."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.exports import records
from jobs.exports.shard_rfc3161_time_stamps import stamped_text
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.check_export_folder import CheckedFiles, StampState, check_export_folder
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.live_exports import LiveExports
from scheduler.export.open_export import open_export
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.export.run_export import Exported, export
from scheduler.ingest.ingest import Ingested
from tests.factories import change, image, lanes_of, make_batch, take
from tests.paths import ROOT
from tests.scheduler.export.rfc3161_time_stamps.authority_server import (
    Authority,
    Served,
    make_authority,
    needs_openssl,
    with_authority,
)

pytestmark = needs_openssl
ROWS = 2


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_of("jsonl"), "shard_rows", ROWS)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "out"), S3Options())


@pytest.fixture
def stamping(settings: Settings, served: Served) -> Settings:
    """The settings of whoever has shards stamped."""
    return with_authority(settings, served)


def order(engine: Engine, store: ObjectStore, batch: Ingested) -> ExportRequest:
    return ExportRequest([actions.status(engine, batch.name)], "jsonl", store)


def exported(engine: Engine, store: ObjectStore, batch: Ingested, settings: Settings) -> Exported:
    authority = TimeStampAuthority.of_settings(settings)
    return export(engine, order(engine, store, batch), lambda _: store, authority=authority)


def rendered(engine: Engine, rows: int) -> Ingested:
    batch = make_batch(engine, rows)
    jobs = [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    transitions.complete(engine, [image(job) for job in jobs])
    return batch


def stamps(store: ObjectStore, record: str = "_SUCCESS") -> dict[int, Any]:
    """The time stamps by shard; None where there is none."""
    return {shard["number"]: shard.get("timestamp") for shard in json.loads(store.get(record))["shards"]}


def checked(store: ObjectStore, own: Authority) -> list[CheckedFiles]:
    return list(check_export_folder(store, "", [own.trusted]))


def test_each_sealed_shard_has_a_stamp_that_openssl_checks(
    engine: Engine, store: ObjectStore, stamping: Settings, own: Authority, tmp_path: Path
) -> None:
    done = exported(engine, store, rendered(engine, 2 * ROWS), stamping)
    assert (done.unstamped, done.stamp_error) == (0, None)
    found = stamps(store)
    assert [found[number]["authority"] for number in (0, 1)] == ["CN=Time"] * 2
    out = tmp_path / "out"
    for number, name in enumerate(("part-00000.jsonl", "part-00001.jsonl")):
        digest = store.digest(name)
        (out / "shard.txt").write_text(f"{digest}  {name}\n")
        (out / "shard.tsr").write_bytes(base64.b64decode(found[number]["response"]))
        subprocess.run(["sha256sum", "-c", "shard.txt"], cwd=out, check=True, capture_output=True)
        command = ["openssl", "ts", "-verify", "-data", "shard.txt", "-in", "shard.tsr"]
        ended = subprocess.run(
            [*command, "-CAfile", str(own.trust_file)], cwd=out, capture_output=True, text=True, check=False
        )
        assert "Verification: OK" in ended.stdout, ended.stderr
    assert [(each.number, each.stamp, each.problem) for each in checked(store, own)] == [
        (0, StampState.TRUSTED, None),
        (1, StampState.TRUSTED, None),
        (None, StampState.NONE, None),
    ]
    assert "Shards are time-stamped (RFC 3161)" in store.get("README.md").decode()


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs the program jq")
def test_the_commands_of_the_page_check_a_stamp_without_nightmill(
    engine: Engine, store: ObjectStore, stamping: Settings, own: Authority, tmp_path: Path
) -> None:
    exported(engine, store, rendered(engine, 2 * ROWS), stamping)
    page = (ROOT / "docs" / "provenance.md").read_text(encoding="utf-8")
    commands = page[page.index("Without nightmill, for shard 0") :].split("```")[1]
    commands = commands.replace("tsa-authority.pem", str(own.trust_file))
    ended = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    assert "part-00000.jsonl: OK" in ended.stdout
    assert "Verification: OK" in ended.stdout


def test_the_stamped_text_is_sorted_and_names_each_file_once() -> None:
    files = [{"name": name, "sha256": name * 2} for name in ("b", "a", "b")]
    assert stamped_text(files) == b"aa  a\nbb  b\n"


def test_without_the_setting_nothing_is_stamped(
    engine: Engine, store: ObjectStore, settings: Settings, served: Served
) -> None:
    exported(engine, store, rendered(engine, ROWS), settings)
    assert stamps(store) == {0: None}
    assert "time-stamped" not in store.get("README.md").decode()
    assert served.receiver.requests == []


def test_what_has_not_changed_keeps_its_stamp(
    engine: Engine, store: ObjectStore, stamping: Settings, settings: Settings, own: Authority, served: Served
) -> None:
    batch = rendered(engine, 2 * ROWS)
    exported(engine, store, batch, stamping)
    first = stamps(store)
    change(engine, "DELETE FROM images WHERE ordinal = 0")
    change(engine, "UPDATE export_shards SET generation = generation + 1 WHERE number = 0")
    exported(engine, store, batch, stamping)
    second = stamps(store)
    assert second[1] == first[1]
    assert second[0]["sha256"] != first[0]["sha256"]
    assert len(served.receiver.requests) == 3
    exported(engine, store, batch, settings)  # by somebody who has no authority
    assert stamps(store) == second
    assert {each.stamp for each in checked(store, own)[:2]} == {StampState.TRUSTED}


def test_shards_that_are_not_sealed_are_not_stamped(
    engine: Engine, store: ObjectStore, stamping: Settings, served: Served
) -> None:
    batch = make_batch(engine, 2 * ROWS)
    jobs = [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    transitions.complete(engine, [image(job) for job in jobs if job.ordinal != 3])
    exported(engine, store, batch, stamping)
    found = stamps(store)
    assert (found[0] is not None, found[1]) == (True, None)
    assert len(served.receiver.requests) == 1


def test_an_export_is_complete_without_an_authority_and_stamped_when_it_is_back(
    engine: Engine, store: ObjectStore, stamping: Settings, served: Served, own: Authority
) -> None:
    batch = rendered(engine, 2 * ROWS)
    served.is_away = True
    done = exported(engine, store, batch, stamping)
    assert (done.is_complete, done.unstamped) == (True, 2)
    assert "answers with status 503" in (done.stamp_error or "")
    assert stamps(store) == {0: None, 1: None}
    assert len(served.receiver.requests) == 2  # not for each shard
    served.is_away = False
    again = exported(engine, store, batch, stamping)
    assert (again.unstamped, again.stamp_error) == (0, None)
    assert {each.stamp for each in checked(store, own)[:2]} == {StampState.TRUSTED}


def test_a_scheduler_stamps_later_what_it_could_not(
    engine: Engine,
    store: ObjectStore,
    stamping: Settings,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = make_batch(engine, 2 * ROWS)
    opened = open_export(engine, order(engine, store, batch))
    records.make_live(engine, opened.id, is_live=True)
    clock = [1000.0]
    monkeypatch.setattr(
        "scheduler.export.rfc3161_time_stamps.authority_client.time.monotonic", lambda: clock[0]
    )
    writer = LiveExports(stamping, engine, SignalSafeEvent())
    jobs = {job.ordinal: job for lane in lanes_of(engine, batch) for job in take(engine, lane)}
    transitions.complete(engine, [image(jobs[0]), image(jobs[1])])
    assert writer.step() == 1
    assert stamps(store, "_INCOMPLETE")[0] is not None
    served.is_away = True
    transitions.complete(engine, [image(jobs[2]), image(jobs[3])])
    assert writer.step() == 1
    found = stamps(store)
    assert (found[0] is not None, found[1]) == (True, None)
    export = records.get(engine, opened.id)
    assert export is not None
    assert export.is_complete
    assert export.error == (
        "shards wait for their time stamps: the time-stamping authority 127.0.0.1 answers with status 503"
    )
    asked = len(served.receiver.requests)
    assert writer.step() == 0
    assert len(served.receiver.requests) == asked  # it is left alone for a while
    clock[0] += 31
    writer.step()
    assert stamps(store)[1] is None
    assert len(served.receiver.requests) == asked + 2
    served.is_away = False
    clock[0] += 61
    writer.step()
    assert stamps(store)[0] == found[0]
    assert stamps(store)[1] is not None
    export = records.get(engine, opened.id)
    assert export is not None
    assert (export.error, export.timestamps_missing) == (None, 0)
    asked = len(served.receiver.requests)
    assert writer.step() == 0
    assert len(served.receiver.requests) == asked


def test_a_scheduler_without_an_authority_leaves_missing_stamps_to_others(
    engine: Engine, store: ObjectStore, stamping: Settings, settings: Settings, served: Served
) -> None:
    batch = rendered(engine, ROWS)
    served.is_away = True
    done = exported(engine, store, batch, stamping)
    records.make_live(engine, done.id, is_live=True)
    before = store.get("_SUCCESS")
    assert LiveExports(settings, engine, SignalSafeEvent()).step() == 0
    assert store.get("_SUCCESS") == before


def test_a_stamp_of_other_files_is_not_told(
    engine: Engine, store: ObjectStore, stamping: Settings, settings: Settings
) -> None:
    """A writer of a version that knows no time stamps leaves that of the files before."""
    batch = rendered(engine, ROWS)
    exported(engine, store, batch, stamping)
    assert stamps(store)[0] is not None
    change(engine, "DELETE FROM images WHERE ordinal = 0")
    change(engine, "UPDATE export_shards SET generation = generation + 1")
    exported(engine, store, batch, settings)
    assert stamps(store) == {0: None}


class TestChecking:
    @pytest.fixture
    def out(self, engine: Engine, store: ObjectStore, stamping: Settings, tmp_path: Path) -> Path:
        exported(engine, store, rendered(engine, 2 * ROWS), stamping)
        return tmp_path / "out"

    def change(self, out: Path, change: Any) -> None:
        record = json.loads((out / "_SUCCESS").read_bytes())
        change(record)
        (out / "_SUCCESS").write_text(json.dumps(record))

    def test_changed_and_missing_files_are_named(self, out: Path, store: ObjectStore, own: Authority) -> None:
        (out / "part-00000.jsonl").write_text("{}\n")
        (out / "part-00001.jsonl").unlink()
        first, second, rest = checked(store, own)
        assert (first.changed, first.missing) == (["part-00000.jsonl"], [])
        assert (second.changed, second.missing) == ([], ["part-00001.jsonl"])
        assert (rest.changed, rest.missing) == ([], [])

    def test_a_forged_digest_does_not_fit_the_stamp(
        self, out: Path, store: ObjectStore, own: Authority
    ) -> None:
        (out / "part-00000.jsonl").write_text("{}\n")
        digest = store.digest("part-00000.jsonl")

        def forge(record: Any) -> None:
            (file,) = (file for file in record["files"] if file["name"] == "part-00000.jsonl")
            file["sha256"] = digest

        self.change(out, forge)
        first, second, _ = checked(store, own)
        assert (first.changed, first.stamp) == ([], StampState.INVALID)
        assert "it is of other data" in (first.problem or "")
        assert second.stamp is StampState.TRUSTED

    def test_a_renamed_file_or_one_less_does_not_fit_the_stamp(
        self, out: Path, store: ObjectStore, own: Authority
    ) -> None:
        self.change(out, lambda record: record["shards"][0].update(files=[]))
        assert checked(store, own)[0].stamp is StampState.INVALID

    @pytest.mark.usefixtures("out")
    def test_the_stamp_of_a_stranger_is_told_from_none(self, store: ObjectStore, tmp_path: Path) -> None:
        stranger = make_authority(tmp_path / "stranger")
        first, *_ = checked(store, stranger)
        assert (first.stamp, first.authority) == (StampState.VALID, "CN=Time")
        assert first.stamped_at is not None
        assert "isn't an authority that is trusted here" in (first.problem or "")
        first, *_ = check_export_folder(store, "", [])
        assert (first.stamp, first.problem) == (StampState.VALID, None)

    @pytest.mark.parametrize("stamp", [{}, {"response": 3}, {"response": "%%"}, {"response": "MAA="}])
    def test_junk_is_an_invalid_stamp(
        self, out: Path, store: ObjectStore, own: Authority, stamp: dict[str, Any]
    ) -> None:
        self.change(out, lambda record: record["shards"][0].update(timestamp=stamp))
        assert checked(store, own)[0].stamp is StampState.INVALID

    def test_names_never_lead_out_of_the_folder(self, out: Path, store: ObjectStore, own: Authority) -> None:
        (out.parent / "secret").write_text("x")
        self.change(out, lambda record: record["shards"][0].update(files=["../secret"]))
        assert checked(store, own)[0].missing == ["../secret"]
