"""A real S3 server over HTTP for tests: moto's, in a process of its own."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import boto3
import botocore.session
import pytest

# Of S3, conditional writes are atomic; moto looks and writes in two steps, so they go one after the other.
_SERVE = """
import sys, threading
from moto.moto_server import threaded_moto_server
from moto.server import ThreadedMotoServer
make, lock = threaded_moto_server.make_server, threading.Lock()
def serve_conditional_writes_in_turn(app):
    def serve(environ, start):
        if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ:
            with lock:
                return app(environ, start)
        return app(environ, start)
    return serve
def make_server(host, port, app, *rest, **options):
    return make(host, port, serve_conditional_writes_in_turn(app), *rest, **options)
threaded_moto_server.make_server = make_server
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_create_loader = cache(botocore.session.create_loader)


@dataclass(frozen=True)
class S3Server:
    """A running server with one empty bucket."""

    endpoint_url: str
    bucket: str

    @property
    def uri(self) -> str:
        """The bucket as nightmill's settings name it."""
        return f"s3://{self.bucket}"


@contextmanager
def start_s3() -> Iterator[S3Server]:
    """Run a server with a fresh bucket; while it runs, the environment holds credentials that it takes.

    Clients are made meanwhile without parsing botocore's tables for each of them, which takes 80 ms.
    The server ends with the block, or with this process: it reads from our end of a pipe.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    tables = patch("botocore.session.create_loader", _create_loader)
    with patch.dict(os.environ, CREDENTIALS), tables, process:
        assert process.stdout is not None
        assert process.stdin is not None
        server = S3Server(
            f"http://127.0.0.1:{process.stdout.readline().strip()}", f"t-{secrets.token_hex(4)}"
        )
        client = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
        client.create_bucket(Bucket=server.bucket)
        client.close()
        try:
            yield server
        finally:
            process.stdin.close()
            process.wait(150)


def shared_credentials(path: Path, key_id: str, monkeypatch: pytest.MonkeyPatch | None = None) -> Path:
    """Write a key into a shared credentials file, in one step; with `monkeypatch`, boto3 finds it there alone."""
    written = path.with_name(f"{path.name}.new")
    written.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = s3cr3t\n")
    written.rename(path)
    if monkeypatch is not None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path
