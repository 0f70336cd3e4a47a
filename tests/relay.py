"""A TCP port that relays to PostgreSQL's unix socket until it falls silent, as a network that swallows packets does."""

import select
import socket
import threading
from contextlib import suppress

from sqlalchemy.engine import make_url


class Relay:
    """`url` is PostgreSQL's by way of the relay; once silent, it takes connections and bytes and passes nothing on."""

    def __init__(self, database_url: str) -> None:
        upstream = make_url(database_url)
        folder = upstream.query.get("host") or upstream.host
        self._upstream = f"{folder}/.s.PGSQL.{upstream.query.get('port') or upstream.port or 5432}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        parts = {"query": {}, "host": "127.0.0.1", "port": port}
        self.url = upstream.set(**parts).render_as_string(hide_password=False)
        self.is_silent = threading.Event()
        self._clients: list[socket.socket] = []

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._clients.append(client)
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._upstream)
            other = {client: server, server: client}
            while ready := select.select(list(other), [], [])[0]:
                for end in ready:
                    if not (data := end.recv(65536)):
                        return
                    if not self.is_silent.is_set():
                        other[end].sendall(data)
