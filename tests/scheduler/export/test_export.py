"""Exports: every image once, typed, in the order of the manifest, and `_SUCCESS` only when all is there."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.db.installation_id import this_installation
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.queue import transitions
from jobs.storage.base import MissingObjectError
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import Shard, exporter_of
from scheduler.export.formats.parquet import ROW_GROUP
from scheduler.export.image_arrow_schema import JSON_COLUMNS, SCHEMA
from scheduler.export.open_export import found_there
from scheduler.export.run_export import Exported
from scheduler.export.run_export import export as run_export
from tests.factories import change, image, lanes_of, look, make_batch, take
from tests.s3 import S3Server

_INDEX = ("README.md", "SHA256SUMS", "croissant.json", "datacontract.yaml")
INDEX = (*_INDEX, *(f"_{name}" for name in _INDEX))
META = {"class": {"id": 7}, "Titel": "Füchse ☃ 🦊", "none": None}
ROWS = [
    {"prompt": "a \u2028 fox\n", "id": "r0", "seed": 2**64 - 1, "tenant": "zoo"} | META,
    {"prompt": "two", "num_images": 2, "width": 72},
    {"prompt": "last"},
]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> ObjectStore:
    """Where an export may go."""
    if request.param == "folder":
        return open_store(str(tmp_path / "out"), S3Options())
    return open_store(
        f"{s3.uri}/{tmp_path.name}", S3Options(endpoint_url=s3.endpoint_url, region="us-east-1")
    )


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "out"), S3Options())


def finished(engine: Engine, rows: Any = ROWS, **options: Any) -> BatchStatus:
    """A batch whose jobs are all done, the last of the manifest first."""
    batch = make_batch(engine, rows, **options)
    for lane in reversed(lanes_of(engine, batch)):
        transitions.complete(engine, [image(job) for job in reversed(take(engine, lane))])
    return actions.status(engine, batch.name)


def no_images(batch: BatchId) -> ObjectStore:
    """Rows are exported without their images, which the card alone would show."""
    raise MissingObjectError(f"the images of batch {batch} aren't there")


def order_of(
    batch: BatchStatus, format: str, store: ObjectStore, prefix: str = "", *, overwrite: bool = False
) -> ExportRequest:
    return ExportRequest([batch], format, store, prefix, overwrite=overwrite)


def export(
    engine: Engine,
    batch: BatchStatus,
    format: str,
    store: ObjectStore,
    prefix: str = "",
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    overwrite: bool = False,
) -> Exported:
    return run_export(engine, order_of(batch, format, store, prefix, overwrite=overwrite), no_images, on_rows)


def shards_of_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let shards have so many manifest rows."""
    for format in ("parquet", "jsonl"):
        monkeypatch.setattr(exporter_of(format), "shard_rows", rows)


def names(store: ObjectStore) -> list[str]:
    """All names but those of the index."""
    return [stored.key for stored in store.list("") if stored.key.rpartition("/")[2] not in INDEX]


def success(store: ObjectStore, prefix: str = "") -> dict[str, Any]:
    return json.loads(store.get(f"{prefix}_SUCCESS"))


def read_rows(store: ObjectStore, format: str) -> list[dict[str, Any]]:
    """All rows of all parts."""
    parts = [store.get(name) for name in names(store) if name.endswith(format)]
    if format == "jsonl":
        return [json.loads(line) for part in parts for line in part.decode().split("\n") if line]
    return [row for part in parts for row in pq.read_table(io.BytesIO(part)).to_pylist()]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_success_comes_last_and_vouches_for_every_file(
    engine: Engine, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    shards_of_rows(monkeypatch, 2)
    told: list[int] = []
    with_success: list[bool] = []

    def tell(count: int) -> None:
        told.append(count)
        with_success.append("_SUCCESS" in names(store))

    batch = finished(engine, name="foxes")
    files = {file["name"]: file for file in export(engine, batch, format, store, on_rows=tell).files}
    assert (sum(told), any(with_success)) == (4, False)
    assert names(store) == ["_SUCCESS", f"part-00000.{format}", f"part-00001.{format}"]
    content = success(store)
    assert (content["batch"], content["format"], content["images"]) == ("foxes", format, 4)
    assert (content["counts"], content["rejected"]) == (batch.counts, 0)
    assert datetime.fromisoformat(content["exported_at"]).tzinfo is not None
    assert [file["rows"] for file in content["files"]] == [3, 1, None, None, None, None]
    for described in content["files"]:
        data = store.get(described["name"])
        assert described["sha256"] == hashlib.sha256(data).hexdigest()
        assert described["bytes"] == len(data)
    parts = content["files"][:2]
    assert [file["sha256"] for file in parts] == [files[file["name"]]["sha256"] for file in parts]


def test_parquet_has_types(engine: Engine, folder: ObjectStore) -> None:
    export(engine, finished(engine, name="foxes"), "parquet", folder)
    table = pq.read_table(io.BytesIO(folder.get("part-00000.parquet")))
    assert list(table.schema)[: len(SCHEMA)] == list(SCHEMA)
    assert table.schema.field("seed").type == pa.uint64()
    assert table.column("prompt").to_pylist() == ["a \u2028 fox\n", "two", "two", "last"]
    assert table.column("ordinal").to_pylist() == [0, 1, 1, 2]
    assert table.column("index").to_pylist() == [0, 0, 1, 0]
    assert table.column("seed")[0].as_py() == 2**64 - 1
    assert table.column("generated_width").to_pylist() == [64, 72, 72, 64]
    first = table.to_pylist()[0]
    assert (first["batch"], first["row_id"], first["tenant"]) == ("foxes", "r0", "zoo")
    assert json.loads(first["meta"]) == META
    assert "Füchse" in first["meta"], "readable as it is"
    assert json.loads(first["safety_scores"]) == {"concepts": [-0.1, -0.2]}
    assert first["uri"] == f"/output/{first['key']}"
    assert abs(first["created_at"] - datetime.now(UTC)).total_seconds() < 3600


def test_parquet_keeps_what_is_not_there_as_null(engine: Engine, folder: ObjectStore) -> None:
    batch = make_batch(engine, 1)
    (job,) = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(
        engine,
        [image(job, safety_scores=None, watermark=None, watermark_bit_accuracy=None, safety_reason=None)],
    )
    export(engine, actions.status(engine, batch.name), "parquet", folder)
    (row,) = read_rows(folder, "parquet")
    silent = ["row_id", "tenant", "noise_level", "upscaler_digest", "safety_scores", "watermark"]
    assert [row[name] for name in silent] == [None] * len(silent)
    assert (row["meta"], row["watermark_bit_accuracy"]) == ("{}", None)


def test_jsonl_has_the_same_rows_as_parquet(engine: Engine, tmp_path: Path) -> None:
    batch = finished(engine)
    rows: dict[str, list[dict[str, Any]]] = {}
    for format in ("parquet", "jsonl"):
        place = open_store(str(tmp_path / format), S3Options())
        export(engine, batch, format, place)
        rows[format] = read_rows(place, format)
    assert list(rows["jsonl"][0]) == [*SCHEMA.names, "path", "nsfw_content_detected"]
    assert rows["jsonl"][0]["meta"] == META
    assert rows["jsonl"][0]["seed"] == 2**64 - 1
    for row in rows["jsonl"]:
        row["created_at"] = datetime.fromisoformat(row["created_at"])
    for row in rows["parquet"]:
        row |= {name: json.loads(row[name]) for name in JSON_COLUMNS}
    shared = [{name: row[name] for name in rows["jsonl"][0]} for row in rows["parquet"]]
    assert rows["jsonl"] == shared


def test_each_image_is_one_line_of_readable_json(engine: Engine, folder: ObjectStore) -> None:
    export(engine, finished(engine), "jsonl", folder)
    text = folder.get("part-00000.jsonl").decode()
    assert text.count("\n") == 4
    assert text.endswith("}\n")
    assert "Füchse ☃ 🦊" in text


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_batch_without_images_has_a_file_without_rows(
    engine: Engine, folder: ObjectStore, format: str
) -> None:
    batch = make_batch(engine, 2)
    (file,) = export(engine, actions.status(engine, batch.name), format, folder).files
    assert (file["rows"], read_rows(folder, format)) == (0, [])
    assert success(folder)["images"] == 0
    assert success(folder)["counts"]["queued"] == 2
    if format == "parquet":
        schema = pq.read_schema(io.BytesIO(folder.get("part-00000.parquet")))
        assert schema.names[: len(SCHEMA)] == SCHEMA.names


def test_an_export_again_replaces_the_one_before(
    engine: Engine, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_of_rows(monkeypatch, 1)
    batch = finished(engine)
    first = export(engine, batch, "parquet", store, "x/")
    assert [file["rows"] for file in first.files] == [1, 2, 1]
    shards_of_rows(monkeypatch, 2)
    assert export(engine, batch, "parquet", store, "x/") == first, "as it was begun"
    export(engine, batch, "jsonl", store, "x/")
    assert names(store) == ["x/_SUCCESS", "x/part-00000.jsonl", "x/part-00001.jsonl"]
    assert [file["rows"] for file in success(store, "x/")["files"]] == [3, 1, None, None, None, None]


def test_an_export_that_breaks_leaves_the_one_before(engine: Engine, store: ObjectStore) -> None:
    """A reader never sees less than before."""
    batch = make_batch(engine, 2)
    first, second = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(engine, [image(first)])
    export(engine, actions.status(engine, batch.name), "jsonl", store)
    before = success(store), store.get("part-00000.jsonl")
    assert before[0]["complete"] is False
    transitions.complete(engine, [image(second)])

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(engine, actions.status(engine, batch.name), "jsonl", store, on_rows=stop)
    assert (success(store), store.get("part-00000.jsonl")) == before
    export(engine, actions.status(engine, batch.name), "jsonl", store)
    assert (success(store)["complete"], len(read_rows(store, "jsonl"))) == (True, 2)


def test_an_export_is_of_one_moment(engine: Engine, folder: ObjectStore) -> None:
    """What is finished while it is written comes with the next."""
    batch = make_batch(engine, 5)
    first, *others = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(engine, [image(first), image(others[-1])])
    late: Iterator[Any] = iter(others[:-1])

    def finish_another(_: int) -> None:
        transitions.complete(engine, [image(next(late))])

    status = actions.status(engine, batch.name)
    export(engine, status, "jsonl", folder, on_rows=finish_another)
    assert [row["ordinal"] for row in read_rows(folder, "jsonl")] == [0, 4]
    export(engine, status, "jsonl", folder)
    assert [row["ordinal"] for row in read_rows(folder, "jsonl")] == [0, 1, 4]


def test_only_the_batch_is_exported(engine: Engine, folder: ObjectStore) -> None:
    finished(engine, 3, name="other")
    export(engine, finished(engine, 2, name="mine"), "jsonl", folder)
    assert {row["batch"] for row in read_rows(folder, "jsonl")} == {"mine"}


def test_row_groups_are_of_a_size_to_work_with(engine: Engine, tmp_path: Path, folder: ObjectStore) -> None:
    export(engine, finished(engine, 1), "jsonl", folder)
    (row,) = read_rows(folder, "jsonl")
    row["created_at"] = datetime.fromisoformat(row["created_at"])
    row |= {name: json.dumps(row[name]) for name in JSON_COLUMNS}
    rows = pa.RecordBatch.from_pylist([row] * (2 * ROW_GROUP + 1), SCHEMA)
    (file,) = exporter_of("parquet")(ExportOptions()).write(tmp_path, Shard(0, 1, iter([rows]), iter, iter))
    assert file.rows == 2 * ROW_GROUP + 1
    groups = pq.read_metadata(tmp_path / file.name)
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 1]


def test_every_image_column_is_exported(engine: Engine, folder: ObjectStore) -> None:
    export(engine, finished(engine, 1), "parquet", folder)
    columns = look(
        engine, "SELECT column_name AS c FROM information_schema.columns WHERE table_name = 'images'"
    )
    stored = {row["c"] for row in columns} - {"id", "epoch", "xid", "batch_id", "inputs_sha256"}
    assert stored | {"image_id", "batch", "uri"} == set(SCHEMA.names)


SPARKS = ["part-00000-1b2c.c000.snappy.parquet", "deep/part-00001", "part-00000", "notes.txt"]


@pytest.mark.parametrize("name", SPARKS)
def test_a_folder_that_holds_anything_else_is_refused(engine: Engine, store: ObjectStore, name: str) -> None:
    batch = finished(engine)
    store.put(name, b"Spark's", content_type="text/plain")
    with pytest.raises(UsageError, match=f"{re.escape(name)}, which readers would take for a part"):
        export(engine, batch, "parquet", store)
    assert names(store) == [name]
    export(engine, batch, "parquet", store, overwrite=True)
    assert names(store) == sorted([name, "_SUCCESS", "part-00000.parquet"])
    assert store.get(name) == b"Spark's"


@pytest.mark.parametrize("name", ["part-00007.parquet", "part-00000.jsonl", "_SUCCESS", "_INCOMPLETE"])
def test_what_has_our_names_and_is_not_ours_goes_by_request_alone(
    engine: Engine, store: ObjectStore, name: str
) -> None:
    batch = finished(engine)
    store.put(name, b"", content_type="text/plain")
    with pytest.raises(
        UsageError, match=f"{name}, which no export of {batch.name} by this installation wrote"
    ):
        export(engine, batch, "parquet", store)
    assert (names(store), found_there(engine, order_of(batch, "parquet", store)).in_the_way) == (
        [name],
        [name],
    )
    export(engine, batch, "parquet", store, overwrite=True)
    assert names(store) == ["_SUCCESS", "part-00000.parquet"]


@pytest.mark.parametrize(
    "name",
    [
        "part-00007.parquet",
        "README.md",
        f"_images/3f/{'3f' * 32}.png",
        f"_images/3f/{'3f' * 32}-{'0' * 12}.c2pa",
    ],
)
def test_what_has_our_names_goes_by_request_from_an_export_that_is_there_too(
    engine: Engine, store: ObjectStore, name: str
) -> None:
    batch = finished(engine)
    export(engine, batch, "parquet", store)
    own = names(store)
    store.put(name, b"", content_type="text/plain")
    with pytest.raises(UsageError, match=r"by this installation wrote: .* --overwrite, which deletes them"):
        export(engine, batch, "parquet", store)
    assert found_there(engine, order_of(batch, "parquet", store)).in_the_way == [name]
    export(engine, batch, "parquet", store, overwrite=True)
    assert names(store) == own


def test_what_overwriting_deletes_of_others_is_told_without_what_is_ours(
    engine: Engine, store: ObjectStore
) -> None:
    batch = finished(engine)
    export(engine, batch, "parquet", store)
    store.put("part-00000.parquet", b"mine", content_type="text/plain")
    store.put("notes.txt", b"mine", content_type="text/plain")
    there = found_there(engine, order_of(batch, "parquet", store))
    assert (there.in_the_way, there.others) == ([], ["notes.txt"])


def test_a_file_that_was_changed_since_is_not_ours_any_more(engine: Engine, store: ObjectStore) -> None:
    batch = finished(engine)
    export(engine, batch, "jsonl", store)
    store.put("part-00000.jsonl", b"with a column of mine", content_type="text/plain")
    with pytest.raises(
        UsageError, match=r"part-00000\.jsonl was changed since an export of .* say --replace"
    ):
        export(engine, batch, "jsonl", store)
    assert store.get("part-00000.jsonl") == b"with a column of mine"
    assert success(store)["batch"] == batch.name


def test_an_export_of_another_batch_or_installation_is_not_replaced(
    engine: Engine, store: ObjectStore
) -> None:
    first, second = finished(engine, name="first"), finished(engine, name="second")
    export(engine, first, "jsonl", store)
    before = names(store)
    with pytest.raises(UsageError, match="which no export of second"):
        export(engine, second, "jsonl", store)
    change(engine, "UPDATE installations SET database = 1")
    with pytest.raises(UsageError, match="which no export of first by this installation"):
        export(engine, first, "jsonl", store)
    assert names(store) == before


@pytest.mark.parametrize("how", ["fails", "is killed"])
def test_no_parts_of_a_file_are_left_in_the_store(
    engine: Engine, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    shards_of_rows(monkeypatch, 1)
    batch = finished(engine)
    store = open_store(f"{s3.uri}/{tmp_path.name}", S3Options(s3.endpoint_url, "us-east-1"))
    prefix = f"{s3.uri}/{tmp_path.name}/".removeprefix(f"s3://{s3.bucket}/")
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    put = type(store).put
    begun = [f"{prefix}backup.tar", f"{prefix}part-00000.parquet", f"{prefix}part-00007.parquet"]
    for key in begun:
        client.create_multipart_upload(Bucket=s3.bucket, Key=key)

    def left() -> list[str]:
        found = client.list_multipart_uploads(Bucket=s3.bucket, Prefix=prefix).get("Uploads", [])
        return sorted(upload["Key"] for upload in found)

    if how == "fails":

        def stop_at_a_part(store: ObjectStore, key: str, body: bytes | Path, **options: str) -> None:
            if key.startswith("part"):
                raise KeyboardInterrupt
            put(store, key, body, **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(store), "put", stop_at_a_part)
            with pytest.raises(KeyboardInterrupt):
                export(engine, batch, "parquet", store)
    else:
        record = {"batch": batch.name, "installation": str(this_installation(engine).id)}
        files = [{"name": "part-00000.parquet", "sha256": "0" * 64}]
        store.put("_INCOMPLETE", json.dumps(record | {"files": files}).encode(), content_type="text/plain")
        export(engine, batch, "parquet", store)
    assert left() == [begun[0], begun[2]]
    client.close()


def test_an_export_that_was_cut_off_is_known_by_its_files(
    engine: Engine, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_of_rows(monkeypatch, 1)
    batch = finished(engine)

    def stop_after(rows: int) -> Callable[[int], None]:
        left = iter(range(rows))

        def tell(_: int) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        return tell

    for rows in (1, 0):
        with pytest.raises(KeyboardInterrupt):
            export(engine, batch, "parquet", store, on_rows=stop_after(rows))
        assert names(store)[0] == "_INCOMPLETE"
    export(engine, batch, "jsonl", store)
    assert names(store) == ["_SUCCESS", *(f"part-{number:05d}.jsonl" for number in range(3))]


def test_beside_the_images_a_users_file_is_left_alone(engine: Engine, store: ObjectStore) -> None:
    batch = finished(engine)
    store.put(f"{batch.name}/export/notes.txt", b"mine", content_type="text/plain")
    for _ in range(2):
        export(engine, batch, "jsonl", store, f"{batch.name}/export/")
    assert names(store) == [
        f"{batch.name}/export/{name}" for name in ("_SUCCESS", "notes.txt", "part-00000.jsonl")
    ]


def test_an_export_of_an_earlier_version_is_replaced_beside_the_images(
    engine: Engine, store: ObjectStore
) -> None:
    batch = finished(engine)
    prefix = f"{batch.name}/export/"
    export(engine, batch, "parquet", store, prefix)
    record = success(store, prefix)
    del record["installation"]
    store.put(f"{prefix}_SUCCESS", json.dumps(record).encode(), content_type="application/json")
    export(engine, batch, "jsonl", store, prefix)
    assert names(store) == [f"{prefix}_SUCCESS", f"{prefix}part-00000.jsonl"]


def test_two_at_once_take_turns(engine: Engine, store: ObjectStore) -> None:
    batch = finished(engine)
    with ThreadPoolExecutor(3) as threads:
        written = list(threads.map(lambda _: export(engine, batch, "jsonl", store), range(3)))
    assert written[0] == written[1] == written[2]
    assert names(store) == ["_SUCCESS", "part-00000.jsonl"]
    (file,) = written[0].files
    assert hashlib.sha256(store.get("part-00000.jsonl")).hexdigest() == file["sha256"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"files": 3}', b'{"files": [{"name": 1, "sha256": 2}]}', b"\xff"]
)
def test_a_record_that_is_none_is_in_the_way(engine: Engine, store: ObjectStore, body: bytes) -> None:
    store.put("_SUCCESS", body, content_type="text/plain")
    with pytest.raises(UsageError, match="_SUCCESS, which no export"):
        export(engine, finished(engine), "parquet", store)
    assert store.get("_SUCCESS") == body
