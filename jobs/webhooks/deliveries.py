"""Deliveries: messages to webhooks, from the queue to their end as delivered or dead.

An attempt is charged when a message is claimed. Its sender has it alone until the lease runs out; then another may send
it. So a message arrives at least once, and always with the same id.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.monitoring import metrics

RETRIES_S = (5, 300, 1_800, 7_200, 18_000, 50_400)
"""Seconds after a failed attempt until the next one; within a day all are used up, and the message is dead."""
LEASE_S = 120.0
"""Longer than an attempt takes."""
KEPT_DAYS = 30
_JITTER = 0.1

_DUE = text("""
    SELECT DISTINCT webhook_id AS id FROM webhook_deliveries JOIN webhooks ON webhooks.id = webhook_id
    WHERE state = 'pending' AND next_try_at <= now() AND webhooks.ended_at IS NULL
""")

_CLAIM = text("""
    WITH picked AS (
        SELECT id FROM webhook_deliveries WHERE webhook_id = :webhook AND state = 'pending' AND next_try_at <= now()
        ORDER BY next_try_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE webhook_deliveries d SET attempts = attempts + 1, lease = :lease,
        next_try_at = now() + make_interval(secs => :lease_s)
    FROM picked, webhooks w WHERE d.id = picked.id AND w.id = d.webhook_id AND w.ended_at IS NULL
    RETURNING d.id, d.webhook_id, lease, event, message_id, body, attempts, url, allows_private, is_hook, (
        SELECT array_agg(secret ORDER BY s.id DESC) FROM webhook_secrets s
        WHERE s.webhook_id = w.id AND (expires_at IS NULL OR expires_at > now())) AS secrets
""")

_DELIVERED = text("""
    UPDATE webhook_deliveries SET state = 'delivered', ended_at = now(), next_try_at = NULL, lease = NULL,
        status = :status, error = NULL
    WHERE id = :id AND lease = :lease RETURNING state
""")

_FAILED = text("""
    UPDATE webhook_deliveries SET state = CASE WHEN CAST(:delay_s AS float) IS NULL THEN 'dead' ELSE 'pending' END,
        ended_at = CASE WHEN CAST(:delay_s AS float) IS NULL THEN now() END,
        next_try_at = now() + make_interval(secs => :delay_s), lease = NULL, status = :status, error = :error
    WHERE id = :id AND lease = :lease RETURNING state
""")

_GONE = text("""
    WITH gone AS (
        UPDATE webhooks SET ended_at = now(), ended_because = :error WHERE id = :webhook AND ended_at IS NULL
    )
    UPDATE webhook_deliveries SET state = 'dead', ended_at = now(), next_try_at = NULL, lease = NULL, error = :error,
        status = CASE WHEN id = :id THEN :status ELSE status END
    WHERE webhook_id = :webhook AND state = 'pending' RETURNING id
""")

_REPLAY = text("""
    WITH again AS (
        UPDATE webhooks SET ended_at = NULL, ended_because = NULL WHERE id = :webhook
    )
    UPDATE webhook_deliveries SET state = 'pending', ended_at = NULL, next_try_at = now(), attempts = 0
    WHERE webhook_id = :webhook AND (
        CAST(:since AS timestamptz) IS NULL AND (state = 'dead' OR state = 'pending' AND lease IS NULL AND attempts > 0)
        OR state <> 'pending' AND created_at >= CAST(:since AS timestamptz)) RETURNING id
""")

_FORGET = text("""
    DELETE FROM webhook_deliveries WHERE ended_at < now() - make_interval(days => :days) RETURNING id
""")
_FORGET_HOOKS = text("""
    DELETE FROM webhooks WHERE is_hook AND created_at < now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE webhook_id = webhooks.id) RETURNING id
""")

_LIST = text("""
    SELECT id, event, message_id, created_at, state, attempts, next_try_at, status, error, ended_at
    FROM webhook_deliveries WHERE webhook_id = :webhook AND (CAST(:state AS text) IS NULL OR state = :state)
    ORDER BY id DESC LIMIT :limit
""")


@dataclass(frozen=True, repr=False)
class Delivery:
    """A claimed message, with the secrets to sign it with, the newest first."""

    id: int
    webhook_id: int
    lease: UUID
    event: str
    message_id: str
    body: str
    attempts: int
    url: str
    allows_private: bool
    is_hook: bool
    secrets: Sequence[str]


def due_webhooks(engine: Engine) -> list[int]:
    """Return the webhooks with messages that are due."""
    return [row.id for row in run(engine, _DUE, {})]


def claim(engine: Engine, webhook: int) -> Delivery | None:
    """Claim the webhook's next message that is due; None if there is none."""
    rows = run(engine, _CLAIM, {"webhook": webhook, "lease": uuid4(), "lease_s": LEASE_S})
    return Delivery(**rows[0]._mapping) if rows else None


def succeed(engine: Engine, delivery: Delivery, status: int | None) -> None:
    """Record that the receiver has taken the message."""
    run(engine, _DELIVERED, {"id": delivery.id, "lease": delivery.lease, "status": status})
    metrics.WEBHOOK_ATTEMPTS.add(1, "delivered")


def fail(engine: Engine, delivery: Delivery, error: str, status: int | None) -> None:
    """Record a failed attempt; the message is tried again later, or is dead after the last attempt."""
    spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - that not all receivers are tried at once
    delay_s = RETRIES_S[delivery.attempts - 1] * spread if delivery.attempts <= len(RETRIES_S) else None
    values = {
        "id": delivery.id,
        "lease": delivery.lease,
        "status": status,
        "error": error,
        "delay_s": delay_s,
    }
    run(engine, _FAILED, values)
    metrics.WEBHOOK_ATTEMPTS.add(1, "failed" if delay_s is not None else "dead")


def end_webhook(engine: Engine, delivery: Delivery, error: str, status: int) -> None:
    """End a webhook whose receiver says that it is gone for good: all its messages are dead, and none are made."""
    values = {"id": delivery.id, "webhook": delivery.webhook_id, "status": status, "error": error}
    metrics.WEBHOOK_ATTEMPTS.add(len(run(engine, _GONE, values)), "dead")


def replay(engine: Engine, webhook: int, since: datetime | None) -> int:
    """Queue failed messages again, at once, or all ended ones of a time on; a webhook that has ended is begun again."""
    return len(run(engine, _REPLAY, {"webhook": webhook, "since": since}))


def forget(engine: Engine) -> int:
    """Delete messages that ended so many days ago, and hooks without any; returns how many messages."""
    forgotten = len(run(engine, _FORGET, {"days": KEPT_DAYS}))
    run(engine, _FORGET_HOOKS, {})
    return forgotten


def deliveries(engine: Engine, webhook: int, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Return messages to a webhook without their bodies, the newest first."""
    values = {"webhook": webhook, "state": state, "limit": limit}
    return [dict(row._mapping) for row in run(engine, _LIST, values)]
