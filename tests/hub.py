"""A hub of models over HTTP, as far as its own client asks: model info, trees, files with ranges."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name, each a folder at COMMIT; all others are withdrawn, or private, as one can't tell.

    Of a gated one it wants the terms accepted. It lies about digests, or states a size of its own for every file,
    where it is told to. A file of the name `stalls` is sent by half, until `go_on` is set.
    """

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    lies: bool = False
    states_bytes: int | None = None
    stalls: str | None = None
    is_stalling: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def asked(self, part: str) -> list[tuple[str, str, str | None]]:
        """The requests, as method, path and range, whose path holds `part`."""
        return [request for request in self.requests if part in request[1]]


@contextmanager
def start_hub() -> Iterator[Hub]:
    """A hub on a port of its own, for as long as the block."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    hub.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        parts = path.removeprefix("api/models/").split("/")
        folder = self.hub.repositories.get("/".join(parts[:2]))
        if "/".join(parts[:2]) in self.hub.gated:
            self._refuse(403, "GatedRepo")
        elif folder is None:
            self._refuse(401, "RepoNotFound")
        elif path.startswith("api/models/"):
            self._answer_api(folder, "/".join(parts[:2]), parts[2:])
        elif parts[2:4] == ["resolve", COMMIT] and (folder / "/".join(parts[4:])).is_file():
            self._send_file(folder / "/".join(parts[4:]))
        else:
            self._refuse(404, "EntryNotFound")

    def _answer_api(self, folder: Path, name: str, rest: list[str]) -> None:
        if rest[:1] == ["tree"] and rest[1] == COMMIT:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            self._send(json.dumps([self._entry(folder, file) for file in files]).encode())
        elif not rest or rest == ["revision", "main"]:
            self._send(json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": []}).encode())
        else:
            self._refuse(404, "RevisionNotFound")

    def _entry(self, folder: Path, file: Path) -> dict[str, object]:
        entry: dict[str, object] = {
            "type": "file",
            "path": file.relative_to(folder).as_posix(),
            "size": self.hub.states_bytes or file.stat().st_size,
            "oid": _digest(file)[:40],
        }
        if file.suffix == ".safetensors":
            digest = "0" * 64 if self.hub.lies else _digest(file)
            entry["lfs"] = {"oid": digest, "size": file.stat().st_size, "pointerSize": 130}
        return entry

    def _send_file(self, file: Path) -> None:
        content = file.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        stalls = self.hub.stalls is not None and file.match(self.hub.stalls) and self.command == "GET"
        self._send(content[start:], 206 if start else 200, headers, stalls=stalls and not start)

    def _send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None, stalls: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(content) // 2 if stalls else 0
        # Whoever asked may be gone: that is what some tests are about.
        with suppress(ConnectionError):
            self.wfile.write(content[:half])
            if stalls:
                self.hub.is_stalling.set()
                self.hub.go_on.wait(30)
            self.wfile.write(content[half:])

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"{}", status, {"X-Error-Code": code, "X-Error-Message": code})


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
