"""`python -m jobs.monitoring.healthcheck`: what a container's runtime asks."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

VARIABLE = "NIGHTMILL_METRICS_ADDRESS"


def healthcheck(address: str | None) -> subprocess.CompletedProcess[str]:
    given = {} if address is None else {VARIABLE: address}
    return subprocess.run(
        [sys.executable, "-m", "jobs.monitoring.healthcheck"],
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def answering(status: int, text: str) -> Iterator[int]:
    """A port whose /healthz says this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104
def test_a_healthy_process(host: str) -> None:
    with answering(200, "ok") as port:
        ended = healthcheck(f"{host}:{port}")
    assert (ended.returncode, ended.stdout) == (0, "healthy\n")


def test_a_sick_process_is_quoted() -> None:
    with answering(503, "the main loop has stood still for 99 s") as port:
        ended = healthcheck(f"127.0.0.1:{port}")
    assert (ended.returncode, ended.stderr) == (1, "503: the main loop has stood still for 99 s\n")


def test_a_process_that_does_not_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ended = healthcheck(f"127.0.0.1:{port}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"127.0.0.1:{port} doesn't answer: ")


def test_where_nothing_is_to_listen_nothing_is_asked() -> None:
    ended = healthcheck(None)
    assert (ended.returncode, ended.stdout) == (0, f"{VARIABLE} isn't set: nothing to ask\n")


def test_an_address_that_is_none() -> None:
    ended = healthcheck("nowhere")
    assert (ended.returncode, ended.stderr.startswith(f"{VARIABLE}: must be HOST:PORT")) == (1, True)
