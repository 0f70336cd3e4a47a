"""A minimal list server with Redis's protocol on a unix socket, for machines without Redis or Valkey.

It implements only the commands that nightmill uses, keeps all data in memory, and is started and stopped like Redis.
Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/ (RESP2, and RESP3's nulls and maps).
"""

import argparse
import logging
import os
import signal
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.services.broker_program import BUILT_IN

MAX_ITEM = 64 * 1024
"""Maximum bytes of a message; a wake-up has about 900."""
MAX_ITEMS = 10_000
"""Maximum number of stored messages; more are refused with the error of a full Redis."""
VERSION = "7.2.0"
"""The Redis version that the server reports."""
INFO = f"# Server\r\nredis_version:{VERSION}\r\nserver_name:nightmill\r\nexecutable:{BUILT_IN}\r\n"

log = logging.getLogger(__name__)


class _Error(Exception):
    """An error that is sent to the client; the connection stays open."""


class _Status(str):
    """A simple string of the protocol."""

    __slots__ = ()


OK = _Status("OK")


class Lists:
    """The server's data: lists by key, and a condition for blocked clients."""

    def __init__(self) -> None:
        self._lists: dict[bytes, deque[bytes]] = {}
        self._filled = threading.Condition()

    def push(self, key: bytes, *items: bytes) -> int:
        """LPUSH: returns the number of items afterwards."""
        with self._filled:
            if sum(map(len, self._lists.values())) + len(items) > MAX_ITEMS:
                raise _Error("OOM command not allowed when used memory > 'maxmemory'.")
            found = self._lists.setdefault(key, deque())
            found.extendleft(items)
            self._filled.notify_all()
            return len(found)

    def pop(self, *keys_and_timeout: bytes) -> list[bytes] | None:
        """BRPOP: returns the first non-empty list's key and last item, waiting up to the timeout in seconds."""
        *keys, timeout = keys_and_timeout
        seconds = float(timeout)
        deadline = time.monotonic() + seconds if seconds else None
        with self._filled:
            while not (key := next((key for key in keys if self._lists.get(key)), None)):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._filled.wait(left)
            return [key, self._take(key)]

    def pop_now(self, key: bytes) -> bytes | None:
        """RPOP."""
        with self._filled:
            return self._take(key) if self._lists.get(key) else None

    def _take(self, key: bytes) -> bytes:
        item = self._lists[key].pop()
        if not self._lists[key]:
            del self._lists[key]
        return item

    def length(self, key: bytes) -> int:
        """LLEN."""
        with self._filled:
            return len(self._lists.get(key, ()))

    def items(self, key: bytes, *_: bytes) -> list[bytes]:
        """LRANGE: returns the whole list, ignoring the range."""
        with self._filled:
            return list(self._lists.get(key, ()))

    def kind(self, key: bytes) -> _Status:
        """TYPE."""
        return _Status("list" if self.length(key) else "none")

    def delete(self, *keys: bytes) -> int:
        """DEL: returns the number of keys deleted."""
        with self._filled:
            return sum(self._lists.pop(key, None) is not None for key in keys)

    def clear(self, *_: bytes) -> _Status:
        """FLUSHALL."""
        with self._filled:
            self._lists.clear()
        return OK


class _Connection(socketserver.StreamRequestHandler):
    """One client connection, served until the client disconnects or violates the protocol."""

    server: "WakeupServer"
    protocol = 2

    def handle(self) -> None:
        try:
            while command := self._read():
                self.wfile.write(_encoded(self._answer(*command), self.protocol))
        except (OSError, ValueError) as error:
            log.info("a connection ended: %s", error)

    def _read(self) -> list[bytes]:
        """Read a command, an array of bulk strings; [] at the end of the stream."""
        line = self.rfile.readline(64)
        if not line:
            return []
        if not line.startswith(b"*") or not 0 < int(line[1:]) <= 64:
            raise ValueError("not a command of Redis's protocol")
        return [self._string() for _ in range(int(line[1:]))]

    def _string(self) -> bytes:
        header = self.rfile.readline(64)
        if not header.startswith(b"$") or not 0 <= (size := int(header[1:])) <= MAX_ITEM:
            raise ValueError(f"a string that is none, or longer than {MAX_ITEM} bytes")
        content = self.rfile.read(size + 2)
        if len(content) != size + 2:
            raise ValueError("it broke off")
        return content[:-2]

    def _answer(self, name: bytes, *arguments: bytes) -> Any:
        try:
            if name.upper() == b"HELLO":
                return self._hello(*arguments)
            command = self.server.commands.get(name.upper())
            if command is None:
                raise _Error(f"ERR unknown command {name[:32].decode(errors='replace')!r}")
            return command(*arguments)
        except _Error as error:
            return error
        except (TypeError, ValueError):
            return _Error("ERR wrong arguments")

    def _hello(self, protocol: bytes = b"2", *_: bytes) -> dict[str, Any]:
        if protocol not in (b"2", b"3"):
            raise _Error("NOPROTO unsupported protocol version")
        self.protocol = int(protocol)
        return {
            "server": "redis",
            "version": VERSION,
            "proto": self.protocol,
            "id": 1,
            "mode": "standalone",
            "role": "master",
            "modules": [],
        }


class WakeupServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The server, listening on the socket `path`, which only its owner can use; one thread per connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        before = os.umask(0o077)
        try:
            super().__init__(str(path), _Connection)
        finally:
            os.umask(before)
        lists = Lists()
        self.commands: dict[bytes, Callable[..., Any]] = {
            b"LPUSH": lists.push,
            b"BRPOP": lists.pop,
            b"RPOP": lists.pop_now,
            b"LLEN": lists.length,
            b"LRANGE": lists.items,
            b"TYPE": lists.kind,
            b"DEL": lists.delete,
            b"FLUSHALL": lists.clear,
            b"PING": lambda *_: _Status("PONG"),
            b"INFO": lambda *_: INFO.encode(),
            b"CLIENT": lambda *_: OK,
            b"SELECT": lambda *_: OK,
            b"SET": lambda *_: OK,  # used only to check that the server accepts writes
        }


def _encoded(value: Any, protocol: int) -> bytes:
    match value:
        case None:
            text = b"_" if protocol == 3 else b"*-1"
        case _Error():
            text = f"-{value}".encode()
        case _Status():
            text = f"+{value}".encode()
        case int():
            text = b":%d" % value
        case str() | bytes():
            content = value.encode() if isinstance(value, str) else value
            text = b"$%d\r\n%s" % (len(content), content)
        case dict():
            head = b"%%%d\r\n" % len(value) if protocol == 3 else b"*%d\r\n" % (2 * len(value))
            return head + b"".join(_encoded(part, protocol) for pair in value.items() for part in pair)
        case _:
            return b"*%d\r\n" % len(value) + b"".join(_encoded(part, protocol) for part in value)
    return text + b"\r\n"


def main() -> None:
    """Take Redis's options, listen, and go into the background: this process ends once clients may come."""
    parser = argparse.ArgumentParser(prog="jobs.services.wakeup_server", description=main.__doc__)
    for option in ("--unixsocket", "--dir", "--pidfile", "--logfile"):
        parser.add_argument(option, type=Path, required=True)
    options, _ = parser.parse_known_args()
    server = WakeupServer(options.unixsocket)
    logging.basicConfig(filename=options.logfile, level=logging.INFO, format="%(asctime)s %(message)s")
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir(options.dir)
    _close_streams()
    options.pidfile.write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, _stop)
    log.info("waiting for clients at %s", options.unixsocket)
    try:
        server.serve_forever()
    finally:
        options.unixsocket.unlink(missing_ok=True)


def _close_streams() -> None:
    with Path(os.devnull).open("r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)


def _stop(_: int, __: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
