"""A limited number of open connections, in which a slow client has to make room for a new one."""

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATIENCE_S = 0.5
"""How long a connection is kept for a client that is slow, while others wait for it to end."""


class ConnectionSlots:
    """Holds the open connections, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waits_since: dict[socket.socket, float] = {}

    def enter(self, connection: socket.socket) -> None:
        """Take a slot. If none is free, wait for one, or cut off the client that has been waited for longest."""
        with self._changed:
            while len(self._waits_since) >= self._most:
                oldest = min(self._waits_since, key=self._waits_since.__getitem__)
                left_s = self._waits_since[oldest] + PATIENCE_S - time.monotonic()
                if left_s <= 0:
                    self._cut_off(oldest)
                else:
                    self._changed.wait(min(left_s, PATIENCE_S))
            self._waits_since[connection] = time.monotonic()

    @contextmanager
    def working(self, connection: socket.socket) -> Iterator[None]:
        """Within the block the client waits for its answer: the connection isn't cut off for another."""
        self._set(connection, math.inf)
        try:
            yield
        finally:
            self._set(connection, time.monotonic())

    def leave(self, connection: socket.socket) -> None:
        """Free the slot of a connection; to be called before the connection is closed."""
        with self._changed:
            self._waits_since.pop(connection, None)
            self._changed.notify_all()

    def _set(self, connection: socket.socket, waits_since: float) -> None:
        with self._changed:
            if connection in self._waits_since:
                self._waits_since[connection] = waits_since
                self._changed.notify_all()

    def _cut_off(self, connection: socket.socket) -> None:
        """Shut the connection down, so that the thread that waits for its client closes it."""
        del self._waits_since[connection]
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
