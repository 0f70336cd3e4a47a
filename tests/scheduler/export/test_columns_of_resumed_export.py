"""Exports that a nightmill with fewer columns has begun, or writes in between, have one schema in all files."""

import dataclasses
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.exports import records
from jobs.process_lifecycle import SignalSafeEvent
from jobs.settings import Settings
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.columns_of_resumed_export import columns_of, exporter_in_its_columns
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.finish_export import finish
from scheduler.export.live_exports import LiveExports
from scheduler.export.open_export import open_export, place_of
from scheduler.export.rows.export_columns import export_schema
from scheduler.export.run_export import Exported, export
from scheduler.export.write_shards import ShardWriter
from tests.console.conftest import Typed
from tests.factories import change
from tests.scheduler.export.datasets import with_pictures

NEW = ("c2pa_bytes", "c2pa_sidecar_sha256", "c2pa_manifest")
"""Columns that the version before doesn't know."""
FORMATS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("parquet", {}, ["c2pa_sidecar_sha256"]),
    (
        "parquet",
        {"partition_by": ("meta.label",), "meta_columns": (("label", "string"),)},
        ["c2pa_sidecar_sha256"],
    ),
    ("csv", {"embed_images": True}, ["c2pa_sidecar_sha256", "c2pa_manifest"]),
    ("jsonl", {"embed_images": True}, ["c2pa_sidecar_sha256", "c2pa_manifest"]),
    ("hf", {}, ["c2pa_manifest", "c2pa_sidecar_sha256"]),
    ("hf", {"layout": "imagefolder"}, ["c2pa_sidecar_sha256"]),
    ("webdataset", {}, ["c2pa_bytes", "c2pa_sidecar_sha256"]),
]

TYPES = {
    name: kind
    for kind, names in {
        "int64": "image_id job_id ordinal bytes reused_from",
        "int32": "index width height prompt_tokens generated_width generated_height",
        "bool": "prompt_truncated nsfw_content_detected",
        "int16": "steps upscale noise_level batch_rows attempt",
        "double": "guidance_scale watermark_bit_accuracy strength quality.clip_score timings.prompt_filter "
        "timings.content_safety_of_prompts timings.load_inputs timings.generate timings.upscale_input "
        "timings.safety timings.clip_score timings.upscale timings.safety_of_upscaled "
        "timings.content_safety_of_images timings.perceptual_hash timings.watermark timings.encode "
        "timings.iscc_code timings.sign timings.verify_watermark timings.upload",
        "uint64": "seed",
        "timestamp[us, tz=UTC]": "created_at",
        "date32[day]": "date",
    }.items()
    for name in names.split()
}
"""Of all columns but text."""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for format in {format for format, _, _ in FORMATS}:
        monkeypatch.setattr(exporter_of(format), "shard_rows", 2)


@pytest.fixture
def typed(settings: Settings, tmp_path: Path) -> Typed:
    """The command line on the test's own settings, in the test's own process."""
    return Typed(settings, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "set"), S3Options())


@pytest.fixture(autouse=True)
def _batch(engine: Engine, tmp_path: Path) -> None:
    """Four images in two shards, the last one with a manifest beside it."""
    rows = [{"prompt": f"fox {number}", "label": "ab"[number % 2]} for number in range(4)]
    with_pictures(engine, tmp_path / "output", rows, sidecars=(3,), name="foxes")


def order(engine: Engine, store: ObjectStore, format: str = "parquet", **options: Any) -> ExportRequest:
    anew = options.pop("anew", False)
    found = actions.status(engine, "foxes")
    return ExportRequest([found], format, store, name="set", options=ExportOptions(**options), anew=anew)


def images(engine: Engine) -> ObjectStore:
    return open_store(actions.status(engine, "foxes").output, S3Options())


def exported(engine: Engine, store: ObjectStore, format: str = "parquet", **options: Any) -> Exported:
    return export(engine, order(engine, store, format, **options), lambda _: images(engine))


def exported_by_version_before(engine: Engine, request: ExportRequest, columns_version: int = 0) -> None:
    """Write what is outdated in fewer columns; what tells that, or which columns the export has, stays as it was."""
    rows = request.exporter.row_files()
    assert rows is not None
    columns = [name for name in rows.schema.names if name not in NEW]
    exporter = type(request.exporter)(request.options, columns)
    opened = open_export(engine, request)
    writer = ShardWriter(engine, opened, exporter, request.store, lambda _: images(engine))
    writer.write_all(unfinished=True)
    finish(writer, place_of(engine, request))
    change(engine, "UPDATE export_shards SET columns_version = :version", version=columns_version)
    if not columns_version:
        change(engine, "UPDATE exports SET columns = NULL")


def outdate_second_shard(engine: Engine) -> None:
    change(engine, "UPDATE export_shards SET generation = generation + 1 WHERE number = 1")


def success(store: ObjectStore) -> dict[str, Any]:
    return json.loads(store.get("_SUCCESS"))


def files(store: ObjectStore) -> dict[str, bytes]:
    """Those of the shards."""
    return {name: store.get(name) for shard in success(store)["shards"] for name in shard["files"]}


@pytest.mark.parametrize(("format", "options", "further"), FORMATS)
def test_an_export_goes_on_in_the_columns_that_it_was_begun_with(
    engine: Engine, store: ObjectStore, format: str, options: dict[str, Any], further: list[str]
) -> None:
    exported_by_version_before(engine, order(engine, store, format, **options))
    before = files(store)
    outdate_second_shard(engine)
    done = exported(engine, store, format, **options)
    assert done.is_complete
    assert files(store) == before, "the same bytes, though this version would write more"
    assert (done.further_columns, success(store)["further_columns"]) == (further, further)
    assert not {*success(store)["columns"]} & {*NEW}
    contract = next((found.key for found in store.list("") if "datacontract" in found.key), None)
    assert contract is None or b"c2pa_sidecar_sha256" not in store.get(contract)


def test_what_the_version_before_writes_in_between_is_written_again(
    settings: Settings, engine: Engine, store: ObjectStore
) -> None:
    """As in a rolling upgrade. Schedulers of that version take the shard for sealed."""
    done = exported(engine, store)
    records.make_live(engine, done.id, is_live=True)
    before = files(store)
    outdate_second_shard(engine)
    exported_by_version_before(engine, order(engine, store), columns_version=1)
    assert [each.is_current for each in records.shards_of(engine, done.id)] == [True, False]
    assert files(store) != before
    writer = LiveExports(settings, engine, SignalSafeEvent())
    assert (writer.step(), writer.step()) == (1, 0)
    assert files(store) == before
    assert success(store)["complete"]


def test_an_export_that_fails_unexpectedly_holds_up_no_other(
    settings: Settings, engine: Engine, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_store(str(tmp_path / "other"), S3Options())
    for each in (store, other):
        records.make_live(engine, open_export(engine, order(engine, each)).id, is_live=True)
    writer, write = LiveExports(settings, engine, SignalSafeEvent()), LiveExports._write
    first = records.exports_of(engine)[0]

    def failing(self: LiveExports, export: records.Export) -> int:
        if export.id == first.id:
            raise TypeError("of a library")
        return write(self, export)

    monkeypatch.setattr(LiveExports, "_write", failing)
    assert writer.step() == 2
    assert success(other)["complete"]
    told = [each.error for each in records.exports_of(engine)]
    assert told == ["TypeError: of a library", None]


def test_what_a_later_version_has_begun_is_left_to_it(
    settings: Settings, engine: Engine, store: ObjectStore, typed: Typed
) -> None:
    opened = open_export(engine, order(engine, store))
    records.make_live(engine, opened.id, is_live=True)
    for statement, unknown in (
        ("""UPDATE exports SET columns = '["prompt", "grain"]'""", "grain"),
        ("""UPDATE exports SET options = '{"columns": ["prompt", "palette"]}'""", "palette"),
        ("""UPDATE exports SET options = '{"grading": true}'""", "grading"),
    ):
        change(engine, statement)
        writer = LiveExports(settings, engine, SignalSafeEvent())
        assert writer.step() == 0
        (found,) = records.exports_of(engine)
        assert f"with what this one doesn't know: {unknown}. Let that version go on" in str(found.error)
        assert typed("exports", "show", str(found.id), "--json").json["columns"] == ["prompt", "grain"]
    assert list(store.list("")) == [next(store.list("_INCOMPLETE"))]


def test_an_export_that_is_begun_anew_has_all_columns_and_stays_live(
    engine: Engine, store: ObjectStore, typed: Typed
) -> None:
    exported_by_version_before(engine, order(engine, store))
    done = exported(engine, store)
    records.make_live(engine, done.id, is_live=True)
    shown = typed("exports", "show", str(done.id))
    assert "keeps the columns that it was begun with: c2pa_sidecar_sha256 is new since" in shown.err
    command = ("export", "foxes", "--name", "set", "--to", store.uri)
    assert "is new since; `nightmill export … --anew`" in typed(*command).err
    ended = typed(*command, "--anew", "--json")
    assert (ended.code, ended.json["further_columns"]) == (0, [])
    (found,) = records.exports_of(engine)
    assert (found.is_live, found.id) == (True, ended.json["export"])
    shown = typed("exports", "show", str(found.id), "--json")
    assert (shown.json["columns"], shown.json["further_columns"]) == (found.columns, [])
    schemas = {tuple(pq.read_schema(file).names) for file in Path(store.uri).glob("part-*.parquet")}
    assert schemas == {tuple(found.columns or ())}
    assert found.columns == export_schema(ExportOptions()).names


@pytest.mark.parametrize("format", ["iceberg", "lance"])
def test_a_table_takes_further_columns_itself(engine: Engine, store: ObjectStore, format: str) -> None:
    opened = open_export(engine, order(engine, store, format))
    assert exporter_in_its_columns(engine, opened).columns == ()
    (found,) = records.exports_of(engine)
    assert (found.columns, columns_of(found)) == (None, None)


def test_files_that_somebody_has_changed_decide_nothing(engine: Engine, store: ObjectStore) -> None:
    exported_by_version_before(engine, order(engine, store))
    table = pq.read_table(Path(store.uri, "part-00000.parquet"))
    pq.write_table(table.select(["prompt", "seed"]), Path(store.uri, "part-00000.parquet"))
    request = dataclasses.replace(order(engine, store), replace=True)
    export(engine, request, lambda _: images(engine))
    schemas = [pq.read_schema(file).names for file in sorted(Path(store.uri).glob("part-*.parquet"))]
    assert schemas == 2 * [[name for name in export_schema(ExportOptions()).names if name not in NEW]]


def test_who_still_writes_the_former_columns_when_an_export_is_begun_anew_is_overtaken(
    engine: Engine, store: ObjectStore
) -> None:
    """Both the shard that it was writing then and those that it claims later are written again."""
    exported_by_version_before(engine, order(engine, store))
    slow = ShardWriter(
        engine,
        opened := open_export(engine, order(engine, store)),
        exporter_in_its_columns(engine, opened),
        store,
        lambda _: images(engine),
    )
    exported(engine, store, anew=True)
    before = files(store)
    outdate_second_shard(engine)
    assert slow.write_all(unfinished=True) == 1
    assert files(store) != before
    assert [each.is_current for each in records.shards_of(engine, opened.id)] == [True, False]
    exported(engine, store)
    assert files(store) == before


@pytest.mark.parametrize(
    "change_to", [{"anew": True}, {"columns": ("prompt", "seed")}], ids=["anew", "options"]
)
def test_who_is_overtaken_in_an_upload_leaves_no_file_of_his(
    settings: Settings,
    engine: Engine,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    change_to: dict[str, Any],
) -> None:
    exported_by_version_before(engine, order(engine, store))
    records.make_live(engine, records.exports_of(engine)[0].id, is_live=True)
    change(engine, "UPDATE images SET prompt = 'owl' WHERE ordinal = 3")
    outdate_second_shard(engine)
    put, calls = type(store).put, []

    def slow(self: ObjectStore, key: str, *given: Any, **named: Any) -> None:
        if key == "part-00001.parquet" and not calls:
            calls.append(key)
            change(engine, "UPDATE export_shards SET lease_until = now() - interval '1 s' WHERE number = 1")
            exported(engine, store, **change_to)
        put(self, key, *given, **named)

    monkeypatch.setattr(type(store), "put", slow)
    writer = LiveExports(settings, engine, SignalSafeEvent())
    writer.step()
    records.make_live(engine, records.exports_of(engine)[0].id, is_live=True)
    assert writer.step() == 1
    told = {file["name"]: file["sha256"] for file in success(store)["files"]}
    assert told == {name: store.digest(name) for name in told}
    assert len({tuple(pq.read_schema(file).names) for file in Path(store.uri).glob("part-*.parquet")}) == 1
    assert all(each.is_current for each in records.shards_of(engine, records.exports_of(engine)[0].id))


def test_samples_have_the_members_that_the_table_beside_them_tells_of(
    engine: Engine, store: ObjectStore
) -> None:
    """Without the size of a manifest in it, its reader would look for what follows at wrong places."""
    exported_by_version_before(engine, order(engine, store, "webdataset"))
    outdate_second_shard(engine)
    exported(engine, store, "webdataset")
    with tarfile.open(Path(store.uri, "00001.tar")) as archive:
        assert {Path(name).suffix for name in archive.getnames()} == {".json", ".png", ".txt"}
    exported(engine, store, "webdataset", anew=True)
    with tarfile.open(Path(store.uri, "00001.tar")) as archive:
        assert {Path(name).suffix for name in archive.getnames()} == {".c2pa", ".json", ".png", ".txt"}


def test_a_column_keeps_its_type() -> None:
    """Exports note names alone: their shards are written in the types of the version that writes them."""
    known = {field.name: str(field.type) for field in export_schema(ExportOptions())}
    assert {name: known.get(name) for name in TYPES} == TYPES
