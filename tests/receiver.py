"""A receiver of webhooks: a real HTTP server that checks signatures as others do, or misbehaves as it is told."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Receiver:
    """What has come, and how it is answered: a status, or a function that may do as it likes with the request."""

    url: str = ""
    answer: int | Callable[[BaseHTTPRequestHandler], object] = 204
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""

    def verified(self, secret: str) -> list[dict[str, Any]]:
        """The messages, after their signatures were checked by the secret; raises if one is wrong."""
        return [Webhook(secret).verify(body, headers) for headers, body in self.requests]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]

    def wait_for(self, number: int) -> None:
        """Until so many requests have come; the test's time limit ends what never comes."""
        while len(self.requests) < number:
            time.sleep(0.01)


@contextmanager
def receiving(address: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver that listens while the block runs."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if callable(receiver.answer):
                receiver.answer(self)
                return
            self.send_response(receiver.answer)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # senders hang up
            pass

    with Server((address, 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        receiver.url = f"http://{address}:{server.server_address[1]}/hooks?key=s3cret"
        try:
            yield receiver
        finally:
            receiver.released.set()
            server.shutdown()
            thread.join()
