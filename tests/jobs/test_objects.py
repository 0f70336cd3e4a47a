import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from jobs.errors import ObjectStoreError, UsageError
from jobs.objects import (
    MissingObjectError,
    ObjectStore,
    S3Options,
    abort_stale_uploads,
    fetch_to_file,
    open_store,
)
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

    def test_a_put_replaces(self, store: ObjectStore) -> None:
        store.put("a/b", b"first", content_type="text/plain")
        store.put("a/b", b"", content_type="text/plain")
        assert store.get("a/b") == b""
        assert [(found.key, found.bytes) for found in store.list("")] == [("a/b", 0)]

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
        store = open_store(str(tmp_path), S3Options())
        store.put("a/b", b"1", content_type="text/plain")
        for name, age in (("~nightmill-old", 7200), ("~nightmill-new", 0), ("b.old", 7200)):
            (tmp_path / "a" / name).touch()
            os.utime(tmp_path / "a" / name, (time.time() - age,) * 2)
        assert abort_stale_uploads(store, timedelta(hours=1)) == 1
        assert {path.name for path in (tmp_path / "a").iterdir()} == {"b", "~nightmill-new", "b.old"}

    def test_a_failed_put_leaves_nothing(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path), S3Options())
        store.put("a/b/c", b"1", content_type="text/plain")
        for key in ("a/b", "a/b/c/d"):
            with pytest.raises(ObjectStoreError, match=f"can't write {tmp_path}/{key}"):
                store.put(key, b"2", content_type="text/plain")
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["c"]

    def test_needs_no_boto3(self, tmp_path: Path) -> None:
        code = (
            "import sys; from jobs.objects import *; s = open_store(sys.argv[1], S3Options());"
            "s.put('a', b'1', content_type=''); assert 'boto3' not in sys.modules, 'boto3 was imported'"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


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
        events = store._client.meta.events  # type: ignore[attr-defined]
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
        for key in ("stale/a", "elsewhere/a"):
            client.create_multipart_upload(Bucket=server.bucket, Key=key)
        store = open_store(f"{server.uri}/stale", s3)
        # moto says of every upload that it was begun in 2010
        assert abort_stale_uploads(store, timedelta(days=36500)) == 0
        assert abort_stale_uploads(store, timedelta(hours=1)) == 1
        left = client.list_multipart_uploads(Bucket=server.bucket).get("Uploads", [])
        assert [upload["Key"] for upload in left] == ["elsewhere/a"]

    def test_an_object_that_another_writer_replaced_is_noticed(
        self, server: S3Server, s3: S3Options, client
    ) -> None:
        store = open_store(f"{server.uri}/raced", s3)
        store._client.meta.events.register(  # type: ignore[attr-defined]
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

    def test_fetches_any_object_to_a_file(
        self, server: S3Server, s3: S3Options, client, tmp_path: Path
    ) -> None:
        client.put_object(Bucket=server.bucket, Key="my manifests/ä.jsonl", Body=b"{}\n" * 10)
        fetch_to_file(f"{server.uri}/my manifests/ä.jsonl", tmp_path / "m.jsonl", s3)
        assert (tmp_path / "m.jsonl").read_bytes() == b"{}\n" * 10
        with pytest.raises(MissingObjectError, match=r"gone.jsonl"):
            fetch_to_file(f"{server.uri}/gone.jsonl", tmp_path / "gone.jsonl", s3)
        with pytest.raises(ObjectStoreError, match="No such file"):
            fetch_to_file(f"{server.uri}/my manifests/ä.jsonl", tmp_path / "no" / "m.jsonl", s3)
        with pytest.raises(UsageError, match="names a bucket"):
            fetch_to_file(server.uri, tmp_path / "m", s3)
        assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


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
            lambda: abort_stale_uploads(store, timedelta(0)),
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
