"""Events that webhooks are told of, and the queueing of messages about them. Nothing is sent for single images."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import transact

LONGEST = 20_000
"""Bytes of a message's body, as Standard Webhooks recommends."""


class EventType(StrEnum):
    """Type of an event."""

    BATCH_ENDED = "batch.ended"
    """No job of the batch is queued or running any more."""
    BATCH_LATE = "batch.late"
    """The batch has missed its deadline, or is expected to."""
    BATCH_STOPPED = "batch.stopped"
    """nightmill itself has paused the batch, as too much of its canary failed."""
    BATCH_SHORT = "batch.short"
    """The batch has ended with fewer accepted images than its target."""
    WORKER_UNHEALTHY = "worker.unhealthy"
    """A fault of its host has kept a worker from its work for a minute."""
    SHARD_SEALED = "shard.sealed"
    """A shard of an export was written when none of its jobs was unfinished."""
    TEST = "test"
    """Sent by `nightmill webhook test` alone."""


WANTABLE = tuple(event for event in EventType if event != EventType.TEST)

WANTS = "webhooks.ended_at IS NULL AND (webhooks.events IS NULL OR {event} = ANY (webhooks.events))"
"""SQL condition: the webhook is told of events of this type."""

_QUEUE = text(f"""
    INSERT INTO webhook_deliveries (webhook_id, event, key, message_id, body)
    SELECT id, :event, :key, :message, :body FROM webhooks
    WHERE {WANTS.format(event=":event")} AND created_at <= coalesce(CAST(:at AS timestamptz), now())
    ON CONFLICT (key, webhook_id) DO NOTHING RETURNING id
""")


def emit(
    connection: Connection,
    event: EventType,
    what: str,
    data: Mapping[str, Any],
    *,
    at: datetime | None = None,
) -> int:
    """Queue a message for each webhook that wants the event, in the caller's transaction; returns how many.

    `what` identifies what happened: a webhook gets one message of it, however often and by whomever it is emitted.
    `at` is when it happened, now by default; webhooks that were added later aren't told.
    """
    values = {
        "event": event,
        "key": f"{event}:{what}",
        "message": message_id(),
        "body": body_of(event, at or datetime.now(UTC), data),
        "at": at,
    }
    return len(connection.execute(_QUEUE, values).all())


def emit_now(engine: Engine, event: EventType, what: str, data: Mapping[str, Any], at: datetime) -> int:
    """Queue messages like `emit`, in a transaction of its own."""
    return transact(engine, lambda connection: emit(connection, event, what, data, at=at))


def message_id() -> str:
    """Return a new id, which a message keeps over all attempts."""
    return f"msg_{uuid4().hex}"


def body_of(event: EventType, at: datetime, data: Mapping[str, Any]) -> str:
    """Return a message's body; lists and objects are left out of the data if it would be too long."""
    body = _json(event, at, data)
    if len(body.encode()) <= LONGEST:
        return body
    plain = {name: value for name, value in data.items() if not isinstance(value, (list, dict))}
    return _json(event, at, {name: value for name, value in plain.items() if len(str(value)) <= 1000})


def _json(event: EventType, at: datetime, data: Mapping[str, Any]) -> str:
    content = {"type": event, "timestamp": at.astimezone(UTC).isoformat(), "data": data}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)
