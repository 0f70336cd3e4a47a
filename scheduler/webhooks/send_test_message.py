"""Sends a test message to a webhook at once, outside the queue."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.outbound_http.bounded_http_post import PostError
from jobs.settings import SENDMAIL
from jobs.webhooks.deliveries import Delivery
from jobs.webhooks.webhook_events import EventType, body_of, message_id
from scheduler.webhooks.run_hook_command import CommandError
from scheduler.webhooks.send_messages import attempt

_WEBHOOK = text("""
    SELECT url, allows_private, is_hook, (
        SELECT array_agg(secret ORDER BY s.id DESC) FROM webhook_secrets s
        WHERE s.webhook_id = w.id AND (expires_at IS NULL OR expires_at > now())) AS secrets
    FROM webhooks w WHERE id = :id
""")


@dataclass(frozen=True)
class Outcome:
    """The status of the answer, if there was one, and the reason why the message was not delivered."""

    status: int | None
    error: str | None


def send_test_message(engine: Engine, webhook: int, sendmail: str = SENDMAIL) -> Outcome:
    """Send a message of the type `test` and return what became of it."""
    rows = run(engine, _WEBHOOK, {"id": webhook})
    if not rows:
        raise UsageError("the webhook was removed just now")
    body = body_of(EventType.TEST, datetime.now(UTC), {"webhook": webhook})
    message = Delivery(
        id=0,
        webhook_id=webhook,
        lease=uuid4(),
        event=EventType.TEST,
        message_id=message_id(),
        body=body,
        attempts=1,
        **rows[0]._mapping,
    )
    try:
        status = attempt(message, sendmail)
    except (PostError, CommandError) as error:
        return Outcome(None, str(error))
    return Outcome(status, None if status is None or 200 <= status < 300 else f"answered {status}")
