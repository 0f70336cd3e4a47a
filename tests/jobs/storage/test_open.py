import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from jobs.errors import ManifestError, ObjectStoreError, OutputGoneError, UsageError
from jobs.manifest import open_source
from jobs.storage.folder import MARKER, FolderStore
from jobs.storage.key_layout import is_batch_folder
from jobs.storage.open import (
    MissingObjectError,
    ObjectStore,
    S3Options,
    abort_stale_uploads,
    fetch_to_file,
    open_store,
    remove_empty_folders,
    remove_temporaries,
)
from jobs.storage.safe_open import Writable
from tests.s3 import S3Server, start_s3

NO_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    "./a",
    "a b",
    "ä",
    "a\\b",
    "a\n",
    "a~b",
    "a?b",
    "a=b",
    "a%2Fb",
    "label=/00000.parquet",
    "label=a%2fb/00000.parquet",
    "label=a b/00000.parquet",
    "label=é/00000.parquet",
    "=fox/00000.parquet",
    "_label=fox/00000.parquet",
    "label=fox/../00000.parquet",
    "label=fox/sub/00000.parquet",
    "foxes/images/label=fox/1.png",
    "foxes/export/part/label=fox/00000.parquet",
    "s3://b/a",
]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with start_s3() as running:
        yield running


@pytest.fixture
def s3(server: S3Server) -> S3Options:
    return S3Options(endpoint_url=server.endpoint_url, connect_timeout=2, read_timeout=10, max_attempts=1)


@pytest.fixture
def client(server: S3Server):
    client = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
    yield client
    client.close()


@pytest.fixture(params=["folder", "s3", "s3-without-prefix"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, server: S3Server, s3: S3Options, client
) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "out"), s3)
    if request.param == "s3":
        return open_store(f"{server.uri}/{tmp_path.name}/dt=2026-01-01", s3)
    client.create_bucket(Bucket=(bucket := f"b{time.time_ns()}"))
    return open_store(f"s3://{bucket}", s3)


class TestEveryStore:
    def test_gives_back_what_was_put(self, store: ObjectStore) -> None:
        body = bytes(range(256)) * 5000
        store.put("batch/images/000/1-0.abc.png", body, content_type="image/png")
        assert store.get("batch/images/000/1-0.abc.png") == body

    @pytest.mark.parametrize("size", [0, 5, 16 << 20, (33 << 20) + 1])
    def test_takes_files(self, store: ObjectStore, tmp_path: Path, size: int) -> None:
        file = tmp_path / "part.parquet"
        file.write_bytes(os.urandom(1 << 20) * (size >> 20) + b"x" * (size & 0xFFFFF))
        store.put("export/part.parquet", file, content_type="application/octet-stream")
        assert (
            hashlib.sha256(store.get("export/part.parquet")).digest()
            == hashlib.sha256(file.read_bytes()).digest()
        )

    @pytest.mark.parametrize("folder", ["", "foxes/export/"])
    def test_folders_of_partitions_are_taken_in_exports(self, store: ObjectStore, folder: str) -> None:
        keys = [f"{folder}label={value}/date=2026-11-29/00000.parquet" for value in ("a%2Fb", "..", "fox")]
        for key in keys:
            store.put(key, key.encode(), content_type="text/plain")
        assert [store.get(found.key).decode() for found in store.list(folder)] == sorted(keys)
        assert sorted(store.names(folder.rstrip("/"))) == sorted(keys)
        assert store.locate(keys[0]) == f"{store.uri}/{keys[0]}"
        store.delete(keys[1])
        assert {found.key for found in store.list(folder)} == {keys[0], keys[2]}

    def test_a_digest_needs_no_room_for_the_object(self, store: ObjectStore) -> None:
        body = os.urandom(1 << 20) * 32
        store.put("export/part-0.parquet", body, content_type="application/octet-stream")
        meant = hashlib.sha256(body).hexdigest()
        tracemalloc.start()
        try:
            assert store.digest("export/part-0.parquet") == meant
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        with pytest.raises(MissingObjectError):
            store.digest("export/part-1.parquet")

    def test_a_put_replaces(self, store: ObjectStore) -> None:
        store.put("a/b", b"first", content_type="text/plain")
        store.put("a/b", b"", content_type="text/plain")
        assert store.get("a/b") == b""
        assert [(found.key, found.bytes) for found in store.list("")] == [("a/b", 0)]

    def test_a_new_object_replaces_none(self, store: ObjectStore) -> None:
        assert store.put_new("a/b", b"first", content_type="text/plain")
        assert not store.put_new("a/b", b"second", content_type="text/plain")
        assert store.get("a/b") == b"first"

    def test_of_many_at_once_one_is_new(self, store: ObjectStore) -> None:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda n: store.put_new("a/b", b"%d" % n, content_type=""), range(4)))
        assert sorted(made) == [False, False, False, True]
        assert store.get("a/b") == b"%d" % made.index(True)

    def test_a_missing_object_is_its_own_error(self, store: ObjectStore) -> None:
        with pytest.raises(MissingObjectError, match=r"no/where"):
            store.get("no/where")

    def test_a_missing_file_is_explained(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(ObjectStoreError, match=r"No such file.*gone\.bin"):
            store.put("a", tmp_path / "gone.bin", content_type="text/plain")
        assert list(store.list("")) == []

    def test_delete_forgives_absence(self, store: ObjectStore) -> None:
        store.put("a", b"1", content_type="text/plain")
        store.delete("a")
        store.delete("a")
        store.delete("never/was")
        with pytest.raises(MissingObjectError):
            store.get("a")

    def test_what_lies_above_or_below_an_object_is_absent(self, store: ObjectStore) -> None:
        store.put("a/b", b"1", content_type="text/plain")
        for key in ("a", "a/b/c"):
            store.delete(key)
            with pytest.raises(MissingObjectError):
                store.get(key)
        assert store.get("a/b") == b"1"

    def test_lists_sorted_by_key_with_size_and_time(self, store: ObjectStore) -> None:
        keys = ["b/2", "a/1", "a-1", "a.1", "a/1-0", "a/0/9", "B", "a/10", "a0"]
        for index, key in enumerate(keys):
            store.put(key, b"x" * index, content_type="text/plain")
        found = list(store.list(""))
        assert [each.key for each in found] == sorted(keys)
        assert {each.key: each.bytes for each in found} == {key: index for index, key in enumerate(keys)}
        assert all(abs(datetime.now(UTC) - each.modified) < timedelta(minutes=1) for each in found)
        assert [each.key for each in store.list("a/")] == ["a/0/9", "a/1", "a/1-0", "a/10"]
        assert [each.key for each in store.list("a/1")] == ["a/1", "a/1-0", "a/10"]
        assert list(store.list("c")) == list(store.list("a/1/")) == list(store.list("x/y/z")) == []

    def test_refuses_what_is_no_key(self, store: ObjectStore) -> None:
        for key in NO_KEYS:
            for verb in (store.get, store.delete, store.locate):
                with pytest.raises(ValueError, match="no object key"):
                    verb(key)
            with pytest.raises(ValueError, match="no object key"):
                store.put(key, b"", content_type="text/plain")

    def test_refuses_what_begins_no_key(self, store: ObjectStore) -> None:
        for prefix in ("/", "../", "a/../", "a//", "ä"):
            with pytest.raises(ValueError, match="no beginning"):
                list(store.list(prefix))

    def test_locates_below_its_uri(self, store: ObjectStore) -> None:
        assert store.locate("a/b.png") == f"{store.uri}/a/b.png"

    def test_threads_share_it(self, store: ObjectStore) -> None:
        bodies = {f"t/{index}": bytes([index]) * 4000 for index in range(32)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, bodies[key], content_type="text/plain"), bodies))
            assert list(pool.map(store.get, bodies)) == list(bodies.values())


class TestFolder:
    def test_uris(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert open_store("out", S3Options()).uri == str(tmp_path / "out")
        assert open_store(f"file://{tmp_path}/with%20space", S3Options()).uri == f"{tmp_path}/with space"
        for wrong in ("gs://bucket/a", "", "file://host/a", "file:a", "s3://", "s3:///a"):
            with pytest.raises(UsageError, match=r"write|use"):
                open_store(wrong, S3Options())

    def test_what_is_deleted_while_it_is_listed_is_left_out(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path), S3Options())
        for key in ("a/1", "a/2", "a/3", "b/1"):
            store.put(key, b"1", content_type="text/plain")
        listing = store.list("")
        assert next(listing).key == "a/1"
        store.delete("a/2")
        shutil.rmtree(tmp_path / "b")
        assert [found.key for found in listing] == ["a/3"]

    def test_temporary_and_foreign_files_are_not_listed(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path), S3Options())
        store.put("a/b", b"1", content_type="text/plain")
        (tmp_path / "a" / "~nightmill-0123").write_bytes(b"half")
        (tmp_path / "a" / "holiday photo.png").write_bytes(b"")
        assert [found.key for found in store.list("")] == ["a/b"]

    def test_stale_temporary_files_go(self, tmp_path: Path) -> None:
        """Of the batches that are named, by the names that we give, and nothing behind links."""
        store = open_store(str(tmp_path), S3Options())
        store.put("a/b", b"1", content_type="text/plain")
        store.put("other/b", b"1", content_type="text/plain")
        old, new, alike = "~nightmill-00000000deadbeef", "~nightmill-00000000deadbee0", "~nightmill-notes"
        names = [f"a/{old}", f"a/{new}", f"a/{alike}", f"other/{old}", "a/b.old"]
        for name in names:
            (tmp_path / name).touch()
            age = 0 if name.endswith(new) else 7200
            os.utime(tmp_path / name, (time.time() - age,) * 2)
        (tmp_path / "a" / "link").symlink_to(tmp_path / "other")
        assert sum(remove_temporaries(store, batch, timedelta(hours=1)) for batch in ("a", "never-was")) == 1
        assert [name for name in names if not (tmp_path / name).exists()] == [f"a/{old}"]

    def test_a_failed_put_leaves_nothing(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path), S3Options())
        store.put("a/b/c", b"1", content_type="text/plain")
        for key in ("a/b", "a/b/c/d"):
            with pytest.raises(ObjectStoreError, match=f"can't write {tmp_path}/{key}"):
                store.put(key, b"2", content_type="text/plain")
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["c"]

    def test_needs_no_boto3(self, tmp_path: Path) -> None:
        code = (
            "import sys; from jobs.storage.open import *; s = open_store(sys.argv[1], S3Options());"
            "s.put('a', b'1', content_type=''); assert 'boto3' not in sys.modules, 'boto3 was imported'"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """A folder outside of the output with a file of the user's own."""
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "today").write_text("mine")
    return tmp_path / "diary" / "today"


class TestLinks:
    """No symbolic link below the output is followed, whoever made it and whenever."""

    def test_what_lies_behind_links_is_neither_listed_nor_touched(self, tmp_path: Path, diary: Path) -> None:
        store = open_store(str(tmp_path / "out"), S3Options())
        store.put("a/1", b"1", content_type="text/plain")
        (tmp_path / "out" / "a" / "loop").symlink_to(".")
        (tmp_path / "out" / "a" / "folder").symlink_to(diary.parent)
        (tmp_path / "out" / "a" / "file").symlink_to(diary)
        (tmp_path / "out" / "b").symlink_to(diary.parent)
        assert [found.key for found in store.list("")] == ["a/1"]
        assert [found.key for found in store.list("b/")] == []
        for key in ("a/folder/today", "a/file", "b/today", "a/loop/1"):
            for verb in (store.get, store.delete):
                with pytest.raises(ObjectStoreError, match="symbolic link"):
                    verb(key)
        for key in ("a/folder/today", "b/new"):
            with pytest.raises(ObjectStoreError, match="symbolic link"):
                store.put(key, b"2", content_type="text/plain")
            with pytest.raises(ObjectStoreError, match="symbolic link"):
                store.put_new(key, b"2", content_type="text/plain")
        assert not store.put_new("a/file", b"2", content_type="text/plain")
        assert (diary.read_text(), list(diary.parent.iterdir())) == ("mine", [diary])
        assert sorted(store.names("a")) == ["a/1", "a/file", "a/folder/", "a/loop/"]

    def test_a_put_replaces_a_link_and_not_what_it_points_to(self, tmp_path: Path, diary: Path) -> None:
        store = open_store(str(tmp_path / "out"), S3Options())
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").symlink_to(diary)
        store.put("file", b"2", content_type="text/plain")
        assert (diary.read_text(), store.get("file")) == ("mine", b"2")

    def test_a_folder_swapped_for_a_link_amid_a_listing(self, tmp_path: Path, diary: Path) -> None:
        store = open_store(str(tmp_path / "out"), S3Options())
        for key in ("a/1", "a/2", "a/b/today", "c/today", "d/1"):
            store.put(key, b"1", content_type="text/plain")
        listing = store.list("")
        assert next(listing).key == "a/1"
        for folder in ("a/b", "c"):
            shutil.rmtree(tmp_path / "out" / folder)
            (tmp_path / "out" / folder).symlink_to(diary.parent)
        assert [found.key for found in listing] == ["a/2", "d/1"]
        with pytest.raises(ObjectStoreError, match="symbolic link"):
            store.delete("c/today")
        assert diary.read_text() == "mine"

    def test_the_output_itself_may_be_reached_through_links(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "out").symlink_to("disk")
        store = open_store(str(tmp_path / "out"), S3Options())
        store.put("a/b", b"1", content_type="text/plain")
        assert (tmp_path / "disk" / "a" / "b").read_bytes() == store.get("a/b") == b"1"

    def test_a_pipe_is_no_object(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path), S3Options())
        os.mkfifo(tmp_path / "pipe")
        assert list(store.list("")) == []
        for verb in (store.get, store.delete):
            with pytest.raises(ObjectStoreError, match="no regular file"):
                verb("pipe")

    def test_only_empty_folders_of_ours_are_removed(self, tmp_path: Path) -> None:
        for path in ("out/a/images/000000", "out/a/images/000001", "out/a/mine", "out/a/export", "out/b"):
            (tmp_path / path).mkdir(parents=True)
        (tmp_path / "out/a/images/000001/notes").touch()
        (tmp_path / "out/a/images/000002").symlink_to(tmp_path / "out" / "b")
        store = open_store(str(tmp_path / "out"), S3Options())
        remove_empty_folders(store, "a", is_batch_folder)
        left = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
        assert left == [
            "a",
            "a/images",
            "a/images/000001",
            "a/images/000001/notes",
            "a/images/000002",
            "a/mine",
            "b",
        ]
        remove_empty_folders(store, "never-was", is_batch_folder)


class TestMarker:
    """A folder whose share was unmounted is not written to."""

    def test_every_verb_asks_for_it(self, tmp_path: Path) -> None:
        plain = FolderStore(tmp_path / "out")
        plain.put(MARKER, b"{}", content_type="application/json")
        store = plain.marked()
        store.put("a/b", b"1", content_type="text/plain")
        (tmp_path / "out").rename(tmp_path / "unmounted")
        for words in ("is not there", "is empty", f"has no {re.escape(MARKER)}"):
            for verb in (
                lambda: store.put("a/b", b"1", content_type="text/plain"),
                lambda: store.put_new("a/b", b"1", content_type="text/plain"),
                lambda: store.get("a/b"),
                lambda: store.delete("a/b"),
                lambda: list(store.list("a/")),
            ):
                with pytest.raises(OutputGoneError, match=rf"out {words}, .*is the share mounted\?"):
                    verb()
            if words == "is not there":
                (tmp_path / "out").mkdir()
            else:
                (tmp_path / "out" / "mine").touch()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


class TestS3:
    def test_content_type_and_digest_travel(
        self, server: S3Server, s3: S3Options, client, tmp_path: Path
    ) -> None:
        store = open_store(f"{server.uri}/meta", s3)
        (tmp_path / "f").write_bytes(b"file")
        for key, body in (("bytes", b"bytes"), ("file", tmp_path / "f")):
            store.put(key, body, content_type="image/png")
            head = client.head_object(Bucket=server.bucket, Key=f"meta/{key}")
            assert head["ContentType"] == "image/png"
            assert head["Metadata"]["sha256"] == hashlib.sha256(key.encode()).hexdigest()

    def test_lists_beyond_one_page(self, server: S3Server, s3: S3Options) -> None:
        store = open_store(f"{server.uri}/pages", s3)
        pages: list[str] = []
        events = store._connection.client.meta.events  # type: ignore[attr-defined]
        events.register(
            "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=4)
        )
        events.register("after-call.s3.ListObjectsV2", lambda **_: pages.append("page"))
        for number in range(10):
            store.put(f"{number:05}", b"", content_type="text/plain")
        assert [found.key for found in store.list("")] == [f"{number:05}" for number in range(10)]
        assert len(pages) == 3

    def test_neighbours_of_the_prefix_are_not_listed(self, server: S3Server, s3: S3Options, client) -> None:
        client.put_object(Bucket=server.bucket, Key="near-by/a", Body=b"")
        client.put_object(Bucket=server.bucket, Key="near/", Body=b"")
        client.put_object(Bucket=server.bucket, Key="near/with space", Body=b"")
        store = open_store(f"{server.uri}/near/", s3)
        store.put("a", b"", content_type="text/plain")
        assert [found.key for found in store.list("")] == ["a"]

    def test_stale_uploads_are_aborted(self, server: S3Server, s3: S3Options, client) -> None:
        """Only of keys that we make, in the folders of batches of ours."""
        image, part = "images/000000/000000000-00000.0123456789ab.png", "export/part-00000.parquet"
        ours = [f"stale/a/{image}", f"stale/a/{part}", "stale/a/export/label=a%2Fb/00000.parquet"]
        others = [
            f"stale/b/{image}",
            f"elsewhere/a/{part}",
            "stale/a/backup.tar",
            "stale/a/export/label=fox/part.parquet",
            "stale/a/export/part-00000-c000.snappy.parquet",
            "stale/backup.tar",
        ]
        for key in ours + others:
            client.create_multipart_upload(Bucket=server.bucket, Key=key)
        store = open_store(f"{server.uri}/stale", s3)
        # moto says of every upload that it was begun in 2010
        assert abort_stale_uploads(store, "a".__eq__, timedelta(days=36500)) == 0
        assert abort_stale_uploads(store, "a".__eq__, timedelta(hours=1)) == 3
        left = client.list_multipart_uploads(Bucket=server.bucket).get("Uploads", [])
        assert sorted(upload["Key"] for upload in left) == sorted(others)

    def test_a_store_without_conditional_writes_is_asked_first(self, server: S3Server, s3: S3Options) -> None:
        store = open_store(f"{server.uri}/old", s3)

        def refuse(params: Any, **_: Any) -> None:
            if "IfNoneMatch" in params:
                answer = {"Error": {"Code": "NotImplemented", "Message": "no such header"}}
                raise ClientError(answer, "PutObject")

        store._connection.client.meta.events.register("before-parameter-build.s3.PutObject", refuse)  # type: ignore[attr-defined]
        assert store.put_new("a", b"first", content_type="text/plain")
        assert not store.put_new("a", b"second", content_type="text/plain")
        assert store.get("a") == b"first"

    def test_an_object_that_another_writer_replaced_is_noticed(
        self, server: S3Server, s3: S3Options, client
    ) -> None:
        store = open_store(f"{server.uri}/raced", s3)
        store._connection.client.meta.events.register(  # type: ignore[attr-defined]
            "after-call.s3.PutObject",
            lambda **_: client.put_object(
                Bucket=server.bucket,
                Key="raced/a",
                Body=b"other",
                Metadata={"sha256": hashlib.sha256(b"mine!").hexdigest()},
            ),
        )
        with pytest.raises(ObjectStoreError, match="isn't what was sent"):
            store.put("a", b"mine!", content_type="text/plain")

    def test_an_object_that_was_damaged_later_is_not_handed_out(
        self, server: S3Server, s3: S3Options, client
    ) -> None:
        store = open_store(f"{server.uri}/damaged", s3)
        store.put("a", b"mine!", content_type="text/plain")
        meant = client.head_object(Bucket=server.bucket, Key="damaged/a")["Metadata"]
        client.put_object(Bucket=server.bucket, Key="damaged/a", Body=b"mime!", Metadata=meant)
        with pytest.raises(ObjectStoreError, match="damaged/a was damaged on the way or in the store"):
            store.get("a")
        client.put_object(Bucket=server.bucket, Key="damaged/a", Body=b"of another program")
        assert store.get("a") == b"of another program"

    def test_fetches_any_object_to_a_file(self, server: S3Server, s3: S3Options, client) -> None:
        client.put_object(Bucket=server.bucket, Key="my manifests/ä.jsonl", Body=b"{}\n" * 10)
        file = io.BytesIO()
        fetch_to_file(f"{server.uri}/my manifests/ä.jsonl", file, s3)
        assert file.getvalue() == b"{}\n" * 10
        with pytest.raises(MissingObjectError, match=r"gone.jsonl"):
            fetch_to_file(f"{server.uri}/gone.jsonl", file, s3)
        with pytest.raises(UsageError, match="names a bucket"):
            fetch_to_file(server.uri, file, s3)

    def test_a_manifest_is_fetched_up_to_its_limit(self, server: S3Server, s3: S3Options, client) -> None:
        client.put_object(Bucket=server.bucket, Key="long.txt", Body=b"a fox\n" * 2_000_000)

        def fetch(uri: str, file: Writable) -> None:
            fetch_to_file(uri, file, s3)

        location = f"{server.uri}/long.txt"
        with open_source(location, fetch=fetch) as manifest:
            assert manifest.bytes == 12_000_000
        with (
            pytest.raises(ManifestError, match=r"has over 10 MiB"),
            open_source(location, fetch=fetch, limit=10 << 20),
        ):
            pass


class TestS3SaysWhatToDo:
    def every_verb_fails(self, store: ObjectStore, tmp_path: Path, match: str) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"1")
        for verb in (
            lambda: store.put("a", b"1", content_type="text/plain"),
            lambda: store.put("a", file, content_type="text/plain"),
            lambda: store.get("a"),
            lambda: store.delete("a"),
            lambda: list(store.list("")),
            lambda: abort_stale_uploads(store, "a".__eq__, timedelta(0)),
        ):
            with pytest.raises(ObjectStoreError, match=match) as caught:
                verb()
            assert "secret" not in str(caught.value)

    def test_when_there_is_no_bucket(self, s3: S3Options, tmp_path: Path) -> None:
        self.every_verb_fails(open_store("s3://no-such-bucket", s3), tmp_path, "the bucket doesn't exist")

    def test_when_there_are_no_credentials(
        self, server: S3Server, s3: S3Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        self.every_verb_fails(open_store(server.uri, s3), tmp_path, "AWS_ACCESS_KEY_ID")

    def test_when_the_endpoint_is_silent(self, server: S3Server, tmp_path: Path) -> None:
        options = S3Options(endpoint_url="http://me:secret@127.0.0.1:1", max_attempts=1)
        store = open_store(server.uri, options)
        self.every_verb_fails(store, tmp_path, "127.0.0.1:1 does not answer; check NIGHTMILL_S3_ENDPOINT_URL")

    def test_when_the_options_make_no_sense(self) -> None:
        with pytest.raises(ObjectStoreError, match="Invalid endpoint"):
            open_store("s3://bucket", S3Options(endpoint_url="nonsense"))

    def test_when_the_bucket_has_no_possible_name(self, s3: S3Options) -> None:
        with pytest.raises(ObjectStoreError, match="Invalid bucket name"):
            open_store("s3://no bucket/a", s3).get("a")
