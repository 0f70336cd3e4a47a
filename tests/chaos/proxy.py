"""An HTTP proxy before an S3 server that does to requests and answers what networks and stores do now and then."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTY_VERBS = ("PUT", "GET", "HEAD")


class Fault(StrEnum):
    """What may happen to one request."""

    REFUSED = "503 before the store saw it"
    LATE_ERROR = "500 after the store did it"
    TIMEOUT = "no answer in time"
    TRUNCATED = "a body cut short"
    FLIPPED = "a flipped bit"


@dataclass(frozen=True)
class Request:
    """A request to S3, and the id of the access key that it is signed with."""

    verb: str
    path: str
    key_id: str


@dataclass
class Proxy:
    """Forwards to `upstream`; each fault befalls this share of the requests. `seen` counts them by verb and fault."""

    upstream: str
    share: float
    hang_s: float
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    seen: Counter[tuple[str, Fault]] = field(default_factory=Counter)
    packs: dict[str, list[Fault | None]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    endpoint_url: str = ""
    is_away: bool = False
    """Whether every request is refused."""
    refusal: Callable[[Request], tuple[int, str] | None] = lambda _: None
    """The status and S3 error code with which a request is refused, by its verb, path and access key id."""

    def fault(self, verb: str) -> Fault | None:
        """What happens to the next request: dealt from a shuffled pack that holds each fault once."""
        if self.is_away:
            return Fault.REFUSED
        if verb not in FAULTY_VERBS or not self.share:
            return None
        with self.lock:
            pack = self.packs.setdefault(verb, [])
            if not pack:
                pack += [*Fault, *[None] * (round(1 / self.share) - len(Fault))]
                self.chance.shuffle(pack)
            found = pack.pop()
            if found:
                self.seen[verb, found] += 1
            return found

    def damage(self, fault: Fault | None, body: bytes) -> bytes:
        """The body as it leaves the proxy: half of it, or with one bit turned over."""
        if fault is Fault.TRUNCATED:
            return body[: len(body) // 2]
        if fault is not Fault.FLIPPED or not body:
            return body
        with self.lock:
            place = self.chance.randrange(len(body))
        return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]

    def counts(self) -> dict[Fault, int]:
        """How often each fault happened."""
        return {fault: sum(n for (_, kind), n in self.seen.items() if kind is fault) for fault in Fault}


@contextmanager
def faulty(upstream: str, *, share: float, hang_s: float) -> Iterator[Proxy]:
    """A running proxy on a port of its own; `hang_s` is how long it keeps silent where it lets a client wait."""
    proxy = Proxy(upstream, share, hang_s)

    class Handler(_Handler):
        own = proxy

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    own: Proxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signature = self.headers.get("Authorization", "").partition("Credential=")[2]
        if refused := self.own.refusal(Request(self.command, self.path, signature.partition("/")[0])):
            status, code = refused
            said = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
            self._answer(status, {"Content-Type": "application/xml"}, said.encode())
            return
        fault = self.own.fault(self.command)
        match fault:
            case Fault.REFUSED:
                self._answer(503, {}, b"")
            case Fault.TIMEOUT:
                time.sleep(self.own.hang_s)
                self.close_connection = True
            case Fault.LATE_ERROR:
                self._forward(body)
                self._answer(500, {}, b"")
            case _:
                self._pass(fault, body)

    def _pass(self, fault: Fault | None, body: bytes) -> None:
        """What is uploaded is damaged on the way there, what is read on the way back."""
        is_upload = self.command == "PUT"
        status, headers, answer = self._forward(self.own.damage(fault, body) if is_upload else body)
        self._answer(status, headers, answer, answer if is_upload else self.own.damage(fault, answer))

    def _forward(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        upstream = http.client.HTTPConnection(urlsplit(self.own.upstream).netloc, timeout=150)
        # The checksum goes too: not every store that speaks the protocol looks at it.
        dropped = {"content-length", "expect", "content-md5", "connection"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = upstream.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        upstream.close()
        return found

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: bytes | None = None
    ) -> None:
        """Announce `body`, and send `sent` in its place; a connection on which less was sent is closed."""
        sent = body if sent is None else sent
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        self.close_connection |= len(sent) < len(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""
