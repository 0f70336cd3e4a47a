"""Wake-up messages, which name a lane that has work; parsed strictly, as anyone with access to Redis can send them.

The message that is passed on to Celery is built from the lane's number only.
"""

import base64
import binascii
import json
import uuid
from typing import Any

from jobs.celery_config import FORMER_WAKEUP_TASK, WAKEUP_TASK
from jobs.job_dataclasses import LaneId

MAX_BYTES = 8192
"""A wake-up message has about 900 bytes."""
_MAX_LANE = 2**63 - 1


class NotAWakeupError(ValueError):
    """The message isn't a valid wake-up; the error text contains nothing of the message."""


def parse_wakeup(raw: bytes) -> LaneId:
    """Return the lane named by a message in Celery's list format; raises NotAWakeupError for everything else."""
    if len(raw) > MAX_BYTES:
        raise NotAWakeupError(f"longer than {MAX_BYTES} bytes")
    message = _json(raw, "message")
    headers, properties, body = (_part(message, name) for name in ("headers", "properties", "body"))
    if message.get("content-type") != "application/json" or _part(headers, "compression") is not None:
        raise NotAWakeupError("not plain JSON")
    if headers.get("task") not in (WAKEUP_TASK, FORMER_WAKEUP_TASK):
        raise NotAWakeupError("another task")
    if _part(properties, "body_encoding") != "base64" or not isinstance(body, str):
        raise NotAWakeupError("another encoding")
    return _lane(_json(_decoded(body), "body"))


def wakeup_message(lane: LaneId) -> bytes:
    """Return a wake-up message for the lane in Celery's format, with the required fields only."""
    task = str(uuid.uuid4())
    body = json.dumps([[lane], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": WAKEUP_TASK,
            "id": task,
            "root_id": task,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": f"({lane},)",
            "kwargsrepr": "{}",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": task,
            "delivery_tag": task,
            "delivery_info": {"exchange": "", "routing_key": ""},
            "body_encoding": "base64",
        },
    }
    return json.dumps(message).encode()


def _json(raw: bytes, what: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise NotAWakeupError(f"{what} is not JSON") from None


def _part(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise NotAWakeupError("not an object")
    return value.get(name)


def _decoded(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise NotAWakeupError("body is not base64") from None


def _lane(body: Any) -> LaneId:
    match body:
        case [[int() as lane], dict(), *_] if not isinstance(lane, bool) and 0 < lane <= _MAX_LANE:
            return LaneId(lane)
        case _:
            raise NotAWakeupError("not the number of a lane")
