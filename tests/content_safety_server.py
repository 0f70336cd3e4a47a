"""A server with the requests and answers of Azure AI Content Safety, which the tests tell what to answer."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "key-of-the-tests-only"
CATEGORIES = ("Hate", "SelfHarm", "Sexual", "Violence")
PATHS = {"/contentsafety/image:analyze": "image", "/contentsafety/text:analyze": "text"}


@dataclass
class Request:
    """A request: `kind` is image or text, `content` the file's bytes or the text."""

    kind: str
    content: bytes | str
    body: dict[str, Any]


@dataclass
class Service:
    """What the server answers, and what it was asked.

    `rate` returns severities of a request that aren't 0; `answers` are statuses, bodies and headers that come first,
    one a request; while `is_down`, connections are closed without an answer.
    """

    url: str = ""
    rate: Callable[[Request], dict[str, int]] = lambda _: {}
    answers: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)
    is_down: bool = False
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of_kind(self, kind: str) -> list[Request]:
        """The requests of images, or of text."""
        return [request for request in self.requests if request.kind == kind]

    def error(self, status: int, code: str, message: str = "told by the service", **headers: str) -> None:
        """Let the next request be answered with an error."""
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        self.answers.append(
            (status, body, {name.replace("_", "-"): value for name, value in headers.items()})
        )

    def answer(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        """The answer to a request."""
        with self.lock:
            self.requests.append(request)
            if self.answers:
                return self.answers.pop(0)
        found = dict.fromkeys(CATEGORIES, 0) | self.rate(request)
        told = [{"category": name, "severity": severity} for name, severity in found.items()]
        return 200, json.dumps({"categoriesAnalysis": told}).encode(), {}


@contextmanager
def content_safety_server() -> Iterator[Service]:
    """Serve until the end of the block."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            address, length = urlsplit(self.path), int(self.headers["Content-Length"])
            text = self.rfile.read(length)
            if service.is_down:
                self.close_connection = True
                return
            if self.headers["Ocp-Apim-Subscription-Key"] != KEY:
                self._send(401, b'{"error": {"code": "401", "message": "Access denied"}}', {})
            elif address.path not in PATHS or parse_qs(address.query) != {"api-version": ["2024-09-01"]}:
                self._send(404, b'{"error": {"code": "404", "message": "Resource not found"}}', {})
            else:
                self._send(*service.answer(_request(PATHS[address.path], json.loads(text))))

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


def _request(kind: str, body: dict[str, Any]) -> Request:
    content = body["text"] if kind == "text" else base64.b64decode(body["image"]["content"], validate=True)
    return Request(kind, content, body)
