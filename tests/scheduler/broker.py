"""Redis as the dispatcher fills it."""

import base64
import json
from typing import Any
from urllib.parse import unquote

import redis

from jobs.job_dataclasses import LaneId
from jobs.settings import Settings


class Broker:
    """Redis and the list of one queue in it."""

    def __init__(self, settings: Settings) -> None:
        self.redis = redis.Redis(unix_socket_path=unquote(settings.broker.removeprefix("redis+socket://")))
        self.queue = settings.queue

    def waiting(self) -> list[dict[str, Any]]:
        """The messages, the next to be taken first."""
        raw: Any = self.redis.lrange(self.queue, 0, -1)
        return [json.loads(message) for message in reversed(raw)]

    def lanes(self) -> list[LaneId]:
        return [body(message)[0][0] for message in self.waiting()]

    def take(self) -> None:
        self.redis.rpop(self.queue)


def body(message: dict[str, Any]) -> list[Any]:
    """Positional arguments, keyword arguments and Celery's own options."""
    assert message["content-type"] == "application/json"
    return json.loads(base64.b64decode(message["body"]))
