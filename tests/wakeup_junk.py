"""What somebody else, another program or an attacker may put into the list of wake-ups."""

import base64
import json
import zlib
from typing import Any

from jobs.celery_config import FORMER_WAKEUP_TASK, WAKEUP_TASK
from jobs.job_dataclasses import LaneId
from jobs.wakeup_message import wakeup_message


def forged(**changes: Any) -> bytes:
    """A message of ours with these parts changed."""
    return json.dumps(json.loads(wakeup_message(LaneId(1))) | changes).encode()


def forged_headers(**changes: Any) -> bytes:
    """A message of ours with these headers changed."""
    return forged(headers=json.loads(wakeup_message(LaneId(1)))["headers"] | changes)


def with_body(body: Any) -> bytes:
    """A message of ours with this JSON as its body."""
    return forged(body=base64.b64encode(json.dumps(body).encode()).decode())


EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

JUNK: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"run everything",
    "bytes": bytes(range(256)),
    "null": b"null",
    "scalar": b"7",
    "text": b'"lane"',
    "list": b"[1, 2, 3]",
    "empty object": b"{}",
    "deep nesting": b"[" * 8000,
    "deep nesting in an object": b'{"headers":' + b"[" * 4000 + b"]" * 4000 + b"}",
    "application/data": forged(**{"content-type": "application/data"}),
    "pickle": forged(**{"content-type": "application/x-python-serialize"}),
    "no content type": forged(**{"content-type": None}),
    "unknown body encoding": forged(properties={"body_encoding": "rot13", "delivery_tag": "1"}),
    "no properties": forged(properties=None),
    "properties are a list": forged(properties=[1]),
    "bad base64": forged(body="%%%"),
    "base64 that isn't ASCII": forged(body="ü"),
    "body is a number": forged(body=7),
    "body is no JSON": forged(body=base64.b64encode(b"{").decode()),
    "body is null": with_body(None),
    "body is deep": forged(body=base64.b64encode(b"[" * 4000).decode()),
    "headers are null": forged(headers=None),
    "headers are a list": forged(headers=["task"]),
    "no task": forged_headers(task=None),
    "unknown task": forged_headers(task="celery.backend_cleanup"),
    "task is a list": forged_headers(task=[WAKEUP_TASK]),
    "compressed": forged_headers(compression="zlib"),
    "no arguments": with_body([[], {}, EMBED]),
    "two arguments": with_body([[1, 2], {}, EMBED]),
    "text for a lane": with_body([["1"], {}, EMBED]),
    "a truth for a lane": with_body([[True], {}, EMBED]),
    "no lane": with_body([[0], {}, EMBED]),
    "a huge lane": with_body([[2**63], {}, EMBED]),
    "an old protocol": with_body({"task": WAKEUP_TASK, "args": [1], "id": {}}),
}

HEEDED: dict[str, bytes] = {
    "a limit of letters": forged_headers(timelimit=["a", "b"]),
    "an id that is an object": forged_headers(id={}),
    "the name of an earlier version": forged_headers(task=FORMER_WAKEUP_TASK),
    "an odd time": forged_headers(eta="tomorrow", expires={"in": 5}),
    "callbacks": with_body([[1], {}, {"callbacks": [{"task": "os.system"}]}]),
    "arguments by name": with_body([[1], {"lane": 2}, EMBED]),
}
"""Odd, but they name a lane: that is all that is taken from them."""


def bomb(megabytes: int) -> bytes:
    """A compressed body that becomes so large."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()
    message = json.loads(wakeup_message(LaneId(1)))
    message["headers"]["compression"] = "application/x-gzip"
    return json.dumps(message | {"body": base64.b64encode(packed).decode()}).encode()
