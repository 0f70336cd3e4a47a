"""An object store in a bucket of S3 or of a compatible service."""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from jobs.errors import ObjectStoreError, UsageError
from jobs.storage.base import DamagedObjectError, OnClosed, StoredObject, checked_key, checked_prefix, is_key
from jobs.storage.s3_connection import S3Connection
from jobs.storage.safe_open import Writable

_PART = 16 << 20
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_UNCONDITIONAL = ("NotImplemented", "501")


@dataclass(frozen=True)
class _Sent:
    """The expected size and digests of an uploaded object."""

    bytes: int
    sha256: str
    etag: str


class S3Store:
    """An ObjectStore below ``s3://bucket/prefix``."""

    def __init__(self, connection: S3Connection, bucket: str, prefix: str) -> None:
        """Use a connection; the prefix has no leading or trailing slash and may be empty."""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._connection = connection
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""

    @property
    def endpoint_url(self) -> str | None:
        """Where the service is."""
        url: str | None = self._connection.client.meta.endpoint_url
        return url

    @property
    def region(self) -> str | None:
        """The service's region."""
        name: str | None = self._connection.client.meta.region_name
        return name

    def put(self, key: str, body: bytes | Path, *, content_type: str) -> None:
        """Upload the object, large files in parts, then verify what the store holds."""
        name = self._root + checked_key(key)
        with self._using("upload", key) as client:
            if isinstance(body, Path):
                self._put_file(client, name, body, content_type)
            else:
                self._put_bytes(client, name, body, content_type)

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Upload unless the object exists; returns False if it does. Without conditional writes, checks first."""
        name = self._root + checked_key(key)
        with self._using("upload", key) as client:
            try:
                self._put_bytes(client, name, body, content_type, IfNoneMatch="*")
            except ClientError as error:
                code = error.response["Error"].get("Code")
                if code in _EXISTS:
                    return False
                if code not in _UNCONDITIONAL:
                    raise
            else:
                return True
            if any(found.key == key for found in self.list(key)):
                return False
            self._put_bytes(client, name, body, content_type)
        return True

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raise MissingObjectError when there is none, ObjectStoreError if damaged."""
        name = self._root + checked_key(key)
        with self._using("read", key) as client:
            answer = client.get_object(Bucket=self._bucket, Key=name)
            body: bytes = answer["Body"].read()
        meant = answer["Metadata"].get("sha256")
        if meant and hashlib.sha256(body).hexdigest() != meant:
            raise DamagedObjectError(
                f"{self.uri}/{key} was damaged on the way or in the store: read it again"
            )
        return body

    def digest(self, key: str) -> str:
        """Return the SHA-256 of the object's bytes; raise MissingObjectError when there is none."""
        with self._using("read", key) as client:
            return self._digest(client, self._root + checked_key(key))

    def delete(self, key: str) -> None:
        """Remove the object; does nothing if it doesn't exist."""
        name = self._root + checked_key(key)
        with self._using("delete", key) as client:
            client.delete_object(Bucket=self._bucket, Key=name)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with these characters, sorted by key, page by page."""
        wanted = self._root + checked_prefix(prefix)
        with self._using("list", prefix) as client:
            for page in self._pages(client, wanted):
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._root)
                    if is_key(key):
                        yield StoredObject(key, found["Size"], found["LastModified"].astimezone(UTC))

    def names(self, folder: str, on_closed: OnClosed | None = None) -> Iterator[str]:  # noqa: ARG002 - it has no folders
        """Yield all keys below a folder (``""`` or ``a/b``), also those that aren't valid keys."""
        wanted = self._root + (f"{folder}/" if folder else "")
        with self._using("list", folder) as client:
            for page in self._pages(client, wanted):
                yield from (found["Key"].removeprefix(self._root) for found in page.get("Contents", ()))

    def locate(self, key: str) -> str:
        """Return the object's ``s3://`` URI."""
        return f"{self.uri}/{checked_key(key)}"

    def download(self, name: str, file: Writable) -> None:
        """Stream the object of this full name (any characters) into `file`; exceptions of `file.write` propagate."""
        with self._using("read", name) as client:
            client.download_fileobj(self._bucket, name, file)

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of the object of this full name (any characters); UsageError if more than `limit`."""
        with self._using("read", name) as client:
            answer = client.get_object(Bucket=self._bucket, Key=name)
            size = answer["ContentLength"]
            if size > limit:
                raise UsageError(
                    f"s3://{self._bucket}/{name} has {size / 2**20:.0f} MiB; at most {limit >> 20} are read"
                )
            body: bytes = answer["Body"].read()
        return body

    def abort_uploads(self, older_than: timedelta, is_ours: Callable[[str], bool]) -> int:
        """Abort multipart uploads older than `older_than` of keys that `is_ours` accepts; returns the number."""
        limit = datetime.now(UTC) - older_than
        aborted = 0
        with self._using("clean up", "") as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._root
            )
            for upload in (upload for page in pages for upload in page.get("Uploads", ())):
                if upload["Initiated"] < limit and is_ours(upload["Key"].removeprefix(self._root)):
                    client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    aborted += 1
        return aborted

    def _pages(self, client: Any, prefix: str) -> Iterator[dict[str, Any]]:
        found: Iterator[dict[str, Any]] = iter(
            client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        )
        return found

    def _put_bytes(self, client: Any, name: str, body: bytes, content_type: str, **conditions: str) -> None:
        md5 = hashlib.md5(body, usedforsecurity=False)
        sent = _Sent(len(body), hashlib.sha256(body).hexdigest(), md5.hexdigest())
        answer = client.put_object(
            Bucket=self._bucket,
            Key=name,
            Body=body,
            ContentType=content_type,
            ContentMD5=b64encode(md5.digest()).decode(),
            Metadata={"sha256": sent.sha256},
            **conditions,
        )
        self._verify(client, name, sent, digest_checked=_etag_is_no_digest(answer))

    def _put_file(self, client: Any, name: str, path: Path, content_type: str) -> None:
        sent = _fingerprint(path)
        client.upload_file(
            str(path),
            self._bucket,
            name,
            ExtraArgs={"ContentType": content_type, "Metadata": {"sha256": sent.sha256}},
            Config=TransferConfig(multipart_threshold=_PART + 1, multipart_chunksize=_PART),
        )
        self._verify(client, name, sent, digest_checked=False)

    def _verify(self, client: Any, name: str, sent: _Sent, *, digest_checked: bool) -> None:
        """Verify size, metadata and digest, the latter by the ETag if that is as expected, else by reading back."""
        head = client.head_object(Bucket=self._bucket, Key=name)
        same = head["ContentLength"] == sent.bytes and head["Metadata"].get("sha256") == sent.sha256
        if same and not digest_checked and head["ETag"].strip('"') != sent.etag:
            same = self._digest(client, name) == sent.sha256
        if not same:
            raise ObjectStoreError(
                f"s3://{self._bucket}/{name} isn't what was sent ({head['ContentLength']} of {sent.bytes} "
                "bytes): another writer or a proxy changed it; upload again"
            )

    def _digest(self, client: Any, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in client.get_object(Bucket=self._bucket, Key=name)["Body"].iter_chunks(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()

    def _using(self, action: str, key: str) -> AbstractContextManager[Any]:
        return self._connection.using(f"{action} {self.uri}/{key}".rstrip("/"))


def _etag_is_no_digest(answer: dict[str, Any]) -> bool:
    """Whether the ETag isn't the content's MD5, because of KMS or a customer key (S3 API reference, Object, ETag)."""
    return answer.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in answer


def _fingerprint(path: Path) -> _Sent:
    """Digest a file in one pass; the ETag of a multipart upload is the MD5 of the parts' MD5s, and their count."""
    size, sha256, parts = 0, hashlib.sha256(), list[bytes]()
    with path.open("rb") as file:
        while (part := file.read(_PART)) or not parts:
            size += len(part)
            sha256.update(part)
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
    if len(parts) == 1:
        return _Sent(size, sha256.hexdigest(), parts[0].hex())
    md5 = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return _Sent(size, sha256.hexdigest(), f"{md5}-{len(parts)}")
