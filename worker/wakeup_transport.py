"""Celery's way to Redis, which lets nothing through but wake-ups of ours.

kombu's own channel believes what lies in the list: it decodes, decompresses and parses it, and what it stumbles over it
puts back, so that the next worker stumbles, too. Here a message that isn't one of ours is dropped before any of that,
however large it is, and none is ever put back: a wake-up that is lost is sent again by the scheduler.
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
    """In place of a string that wasn't kept; `size` is what it had, in bytes."""

    size: int


class _BoundedBuffer(SocketBuffer):
    """Reads past strings that are too long for a wake-up, without holding them."""

    def read(self, length: int, timeout: Any = SENTINEL) -> bytes:
        """As redis-py does it, where the string is short."""
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
    """redis-py's parser on a bounded buffer."""

    def on_connect(self, connection: Any) -> None:
        """As redis-py does it."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._buffer = _BoundedBuffer(connection._sock, self.socket_read_size, connection.socket_timeout)


class _WakeupClient(redis.Redis):
    """Answers BRPOP with messages that were built here, or with nothing."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """As redis-py does it, for all other commands. A server that refuses is asked again after a pause."""
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
    """Reads wake-ups, writes nothing to Redis and puts nothing back."""

    do_restore = False

    def _get_client(self) -> type[redis.Redis]:
        return _WakeupClient

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]
        return found | {"parser_class": _BoundedParser, "protocol": 2}

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Nothing."""

    def _restore_at_beginning(self, message: Any) -> None:
        """Nothing."""

    def _queue_bind(self, *_: Any, **__: Any) -> None:
        """Nothing: who sends names the list itself."""

    def _size(self, queue: str) -> int:  # noqa: ARG002 - kombu's contract
        return 0  # asked for when the queue is declared, and told to nobody


class WakeupTransport(kombu_redis.Transport):
    """kombu's Redis transport with that channel."""

    Channel = WakeupChannel
