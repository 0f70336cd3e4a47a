"""Hooks: who is told of the end of batches without being a webhook: a command, a mail address or a URL.

A hook comes from the scheduler's setting, for all batches, or from a batch's policy. It has a row among the webhooks,
by which its messages are sent once, tried again and listed as theirs are.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import transact
from jobs.errors import UsageError
from jobs.outbound_http.refuse_private_addresses import check_url
from jobs.webhooks.signatures import new_secret
from jobs.webhooks.webhook_events import EventType, body_of, message_id

LONGEST = 2_000
_MAIL = "mailto:"
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_URL = re.compile(r"https?://")
_OTHER_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

# Its type of events is none that there is: it is told of single batches alone. The URL may be that of a webhook.
_ADD = text("""
    INSERT INTO webhooks (url, events, allows_private, is_hook) VALUES (:url, '{hook}', :allows_private, true)
    ON CONFLICT (url) DO NOTHING RETURNING id
""")
_ADD_SECRET = text("INSERT INTO webhook_secrets (webhook_id, secret) VALUES (:id, :secret)")
_SINCE = text("SELECT created_at FROM webhooks WHERE url = :url")
_QUEUE = text("""
    INSERT INTO webhook_deliveries (webhook_id, event, key, message_id, body)
    SELECT id, :event, :key, :message, :body FROM webhooks WHERE url = :url
    ON CONFLICT (key, webhook_id) DO NOTHING RETURNING id
""")


class HookKind(StrEnum):
    """How a hook is told."""

    URL = "url"
    MAIL = "mail"
    COMMAND = "command"


def kind_of(hook: str) -> HookKind:
    """Return how the hook is told."""
    if _URL.match(hook):
        return HookKind.URL
    return HookKind.MAIL if hook.startswith(_MAIL) else HookKind.COMMAND


def addresses_of(hook: str) -> list[str]:
    """Return the addresses of a mail hook."""
    return [address.strip() for address in hook.removeprefix(_MAIL).split(",")]


def check_hook(hook: str, *, allows_commands: bool) -> None:
    """Raise UsageError unless this is a hook; commands and private URLs only if they are allowed."""
    if not hook.strip() or hook != hook.strip() or len(hook) > LONGEST or not hook.isprintable():
        raise UsageError(
            f"a hook is a command, mailto:ADDRESS or https://…, in one line of at most {LONGEST:,} characters"
        )
    match kind_of(hook):
        case HookKind.URL:
            _check_url(hook, allows_private=allows_commands)
        case HookKind.MAIL:
            wrong = [address for address in addresses_of(hook) if not _ADDRESS.fullmatch(address)]
            if wrong:
                raise UsageError(f"{wrong[0]!r} is no mail address: mailto:ada@example.com,bob@example.com")
        case HookKind.COMMAND if _OTHER_URL.match(hook):
            scheme = hook.partition(":")[0]
            raise UsageError(f"{scheme}:// tells nobody: https://…, mailto:ADDRESS or a command")
        case HookKind.COMMAND if not allows_commands:
            raise UsageError(
                "a batch may name no command here, as the scheduler may be another user's: "
                "NIGHTMILL_RUN_COMMANDS=on (for the scheduler and here) allows it; mailto:… and https://… always work"
            )


def _check_url(hook: str, *, allows_private: bool) -> None:
    try:
        check_url(hook, allows_private=allows_private)
    except UsageError:
        if allows_private:
            raise
        raise UsageError(
            "the URL of a hook must be https://… with a public address here; others can be webhooks: "
            "`nightmill webhook add URL --allow-private`"
        ) from None


def begin_hook(engine: Engine, hook: str) -> datetime:
    """Return since when there is this hook of all batches, from now on if it is new: it isn't told of before."""

    def begin(connection: Connection) -> datetime:
        _ensure(connection, hook, allows_private=True)
        found: datetime = connection.execute(_SINCE, {"url": hook}).scalar_one()
        return found

    return transact(engine, begin)


def _ensure(connection: Connection, hook: str, *, allows_private: bool) -> None:
    made = connection.execute(_ADD, {"url": hook, "allows_private": allows_private}).scalar()
    if made is not None:
        connection.execute(_ADD_SECRET, {"id": made, "secret": new_secret()})


def queue_for_hook(
    engine: Engine,
    hook: str,
    event: EventType,
    what: str,
    data: Mapping[str, Any],
    at: datetime,
    *,
    allows_private: bool,
) -> int:
    """Queue a message for a hook unless it was told of this event; returns how many, 0 or 1.

    `what` identifies what happened, as for webhooks.
    """

    def queue(connection: Connection) -> int:
        _ensure(connection, hook, allows_private=allows_private)
        values = {
            "url": hook,
            "event": event,
            "key": f"{event}:{what}",
            "message": message_id(),
            "body": body_of(event, at, data),
        }
        return len(connection.execute(_QUEUE, values).all())

    return transact(engine, queue)
