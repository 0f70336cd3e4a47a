"""A small HTTP server for metrics and health checks, with limits on the requests that it takes."""

import errno
import io
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from jobs.errors import ServiceError, UsageError
from jobs.monitoring.connection_slots import ConnectionSlots
from jobs.monitoring.listen_address import VARIABLE, ListenAddress

log = logging.getLogger(__name__)

MOST_REQUESTS = 32
"""Connections open at once; for more, those of the slowest clients are closed."""
MOST_BYTES = 8192
REQUEST_S = 5.0
"""How long a client may take to send its request, and to take the answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, status: int, text: str) -> "Answer":
        """Return an answer of one or more lines of text."""
        return cls(status, f"{text}\n".encode())


Route = Callable[[str], Answer]
"""Gets what follows the route's path, where that ends with a slash; else the empty string."""


class MonitoringServer(socketserver.TCPServer):
    """Serves GET and HEAD of the routes, in threads."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: ListenAddress, routes: Mapping[str, Route]) -> None:
        """Listen on the address. Raises UsageError if it isn't one of this host, ServiceError if it is in use."""
        self.routes = routes
        self.slots = ConnectionSlots(MOST_REQUESTS)
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
            self.address_family = found[0]
            super().__init__((str(found[4][0]), address.port), _Handler)
        except OSError as error:
            what = f"{VARIABLE}: can't listen on {address}: {error.strerror or error}"
            kind = ServiceError if error.errno == errno.EADDRINUSE else UsageError
            raise kind(what) from None

    def start(self) -> None:
        """Serve in a background thread, for as long as the process lives."""
        threading.Thread(target=self.serve_forever, daemon=True, name="metrics").start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, once there is a slot for the connection."""
        self.slots.enter(request)
        threading.Thread(target=self._answer, args=(request, client_address), daemon=True).start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("a request for metrics was not answered: %s", error)
        except Exception:
            log.exception("a request for metrics was not answered")
        finally:
            self.slots.leave(request)
            self.shutdown_request(request)


def serve(address: str | None, routes: Mapping[str, Route], *, is_supervised: bool) -> None:
    """Begin to serve if there is an address.

    A port in use is a ServiceError, but a warning in a process that `run` or `up` has started: it can work without.
    """
    if address is None:
        return
    try:
        server = MonitoringServer(ListenAddress.parse(address), routes)
    except ServiceError as error:
        if not is_supervised:
            raise
        log.warning("%s; going on without metrics", error)
        return
    log.info("metrics at http://%s/metrics", address)
    server.start()


class _Handler(BaseHTTPRequestHandler):
    """Reads the head of a request within the limits, and answers it by the server's routes."""

    server: MonitoringServer
    server_version = "nightmill"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def setup(self) -> None:
        """Read the head of the request."""
        super().setup()
        head = _head(self.connection)
        self.connection.settimeout(REQUEST_S)
        if len(head) == MOST_BYTES:
            self.wfile.write(b"HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n")
            head = b""
        self.rfile = io.BytesIO(head)

    def do_GET(self) -> None:
        """Answer with the route's status and body."""
        with self.server.slots.working(self.connection):
            answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Log at level DEBUG: scrapes come several times a minute."""
        log.debug(format, *args)

    def _answer(self) -> Answer:
        path = self.path.partition("?")[0]
        for known, route in self.server.routes.items():
            is_found = path.startswith(known) if known.endswith("/") else path == known
            if is_found:
                return route(path[len(known) :])
        return Answer.text(HTTPStatus.NOT_FOUND, f"there are {', '.join(self.server.routes)}")


def _head(connection: socket.socket) -> bytes:
    """Return the request up to the empty line, at most `MOST_BYTES`; TimeoutError if it takes too long."""
    until, head = time.monotonic() + REQUEST_S, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < MOST_BYTES:
        connection.settimeout(max(0.001, until - time.monotonic()))
        if not (more := connection.recv(MOST_BYTES - len(head))):
            break
        head += more
    return head
