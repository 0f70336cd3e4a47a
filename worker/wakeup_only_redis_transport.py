"""A Redis transport for Celery that accepts nothing but nightmill's wake-up messages.

kombu's own channel trusts the list's contents: it decodes, decompresses and parses each message, and puts back what it
fails on, so that the next worker fails on it, too. Here a message that isn't a wake-up is dropped before any of that,
whatever its size, and nothing is ever put back: the scheduler sends a lost wake-up again.
"""

import logging
import time
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from redis._parsers import _RESP2Parser
from redis._parsers.socket import SocketBuffer
from redis.exceptions import ResponseError
from redis.utils import SENTINEL

from jobs.rate_limited_log import RateLimitedLog
from jobs.wakeup_message import MAX_BYTES, NotAWakeupError, parse_wakeup, wakeup_message

PAUSE_S = 1.0

_log = RateLimitedLog(logging.getLogger(__name__))


class _Oversized(bytes):
    """Stands for a string that was too long to keep; `size` is its length in bytes."""

    size: int


class _BoundedBuffer(SocketBuffer):
    """Skips strings that are too long for a wake-up without holding them in memory."""

    def read(self, length: int, timeout: Any = SENTINEL) -> bytes:
        """Read as redis-py does if the string is short; else skip it and return an `_Oversized`."""
        if length <= MAX_BYTES:
            return super().read(length, timeout)
        left = length + len(b"\r\n")
        left -= len(self._buffer.read(left))
        while left:
            self._buffer.seek(0)
            self._buffer.truncate()
            self._read_from_socket(timeout=timeout)
            left -= len(self._buffer.read(left))
        skipped = _Oversized()
        skipped.size = length
        return skipped


class _BoundedParser(_RESP2Parser):
    """redis-py's RESP2 parser with a bounded buffer."""

    def on_connect(self, connection: Any) -> None:
        """Connect as redis-py does, then replace the buffer."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._buffer = _BoundedBuffer(connection._sock, self.socket_read_size, connection.socket_timeout)


class _WakeupClient(redis.Redis):
    """Redis client whose BRPOP returns only rebuilt, validated wake-ups, or nothing."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Parse BRPOP's reply; other commands as in redis-py. After an error reply, pause, then return None."""
        if command_name != "BRPOP":
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        try:
            popped = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            _log.tell("refused", f"Redis gives no wake-ups: {error}")
            connection.disconnect()
            time.sleep(PAUSE_S)
            return None
        return popped and _checked(*popped)


def _checked(queue: bytes, item: bytes) -> tuple[bytes, bytes] | None:
    try:
        if isinstance(item, _Oversized):
            raise NotAWakeupError(f"longer than {MAX_BYTES} bytes")
        return queue, wakeup_message(parse_wakeup(item))
    except NotAWakeupError as error:
        size = item.size if isinstance(item, _Oversized) else len(item)
        _log.tell(
            str(error), f"dropped a message of {size:,} bytes that is no wake-up of nightmill's: {error}"
        )
        return None


class WakeupChannel(kombu_redis.Channel):
    """Channel that reads wake-ups; it writes nothing to Redis and puts nothing back."""

    do_restore = False

    def _get_client(self) -> type[redis.Redis]:
        return _WakeupClient

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]
        return found | {"parser_class": _BoundedParser, "protocol": 2}

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Do nothing."""

    def _restore_at_beginning(self, message: Any) -> None:
        """Do nothing."""

    def _queue_bind(self, *_: Any, **__: Any) -> None:
        """Do nothing: the sender names the list itself."""

    def _size(self, queue: str) -> int:  # noqa: ARG002 - kombu's contract
        return 0  # only queried when the queue is declared, and not used


class WakeupTransport(kombu_redis.Transport):
    """kombu's Redis transport with `WakeupChannel`."""

    Channel = WakeupChannel
