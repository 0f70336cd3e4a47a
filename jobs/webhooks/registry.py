"""Webhooks: adding, listing and removing receivers, and changing the secrets that sign messages to them."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.outbound_http.refuse_private_addresses import check_url
from jobs.suggest_names_and_shorten_lists import nearest
from jobs.webhooks.signatures import new_secret
from jobs.webhooks.webhook_events import WANTABLE

MOST = 100
"""Webhooks of an installation: each may keep a thread of a scheduler busy."""

_ADD = text("""
    INSERT INTO webhooks (url, events, allows_private)
    SELECT :url, CAST(:events AS text[]), :allows_private
    WHERE (SELECT count(*) FROM webhooks WHERE NOT is_hook) < :most
    ON CONFLICT (url) DO UPDATE SET events = excluded.events, allows_private = excluded.allows_private,
        is_hook = false, created_at = now() WHERE webhooks.is_hook
    RETURNING id
""")
_ADD_SECRET = text("INSERT INTO webhook_secrets (webhook_id, secret) VALUES (:id, :secret)")
_DELETE_SECRETS = text("DELETE FROM webhook_secrets WHERE webhook_id = :id")
_EXPIRE = text("""
    UPDATE webhook_secrets SET expires_at = now() + make_interval(secs => :overlap_s)
    WHERE webhook_id = :id AND expires_at IS NULL
""")
_FORGET_EXPIRED = text("DELETE FROM webhook_secrets WHERE webhook_id = :id AND expires_at <= now()")
_FOUND = text("SELECT id, url FROM webhooks WHERE url = :given OR CAST(id AS text) = :given")
_LOCK = text("SELECT id FROM webhooks WHERE id = :id FOR UPDATE")
_URLS = text("SELECT url FROM webhooks ORDER BY id")
_REMOVE = text("DELETE FROM webhooks WHERE id = :id RETURNING id")
_PENDING = text(
    "SELECT count(*) AS messages FROM webhook_deliveries WHERE webhook_id = :id AND state = 'pending'"
)
_LIST = text("""
    SELECT w.*, coalesce(pending, 0) AS pending, coalesce(delivered, 0) AS delivered, coalesce(dead, 0) AS dead,
        last_delivered_at, (
            SELECT error FROM webhook_deliveries d WHERE d.webhook_id = w.id AND error IS NOT NULL
            ORDER BY id DESC LIMIT 1) AS last_error
    FROM webhooks w LEFT JOIN (
        SELECT webhook_id, count(*) FILTER (WHERE state = 'pending') AS pending,
            count(*) FILTER (WHERE state = 'delivered') AS delivered, count(*) FILTER (WHERE state = 'dead') AS dead,
            max(ended_at) FILTER (WHERE state = 'delivered') AS last_delivered_at
        FROM webhook_deliveries GROUP BY 1) AS d ON d.webhook_id = w.id
    ORDER BY w.id
""")


def add(engine: Engine, url: str, events: Sequence[str] | None, *, allows_private: bool) -> tuple[int, str]:
    """Add a webhook, for these types of events or all; returns its number and its secret. Raises UsageError."""
    check_url(url, allows_private=allows_private)
    for event in events or ():
        if event not in WANTABLE:
            raise UsageError(f"--events {event}: must be of {', '.join(WANTABLE)}")
    values = {"url": url, "events": events, "allows_private": allows_private, "most": MOST}
    secret = new_secret()

    def work(connection: Connection) -> int | None:
        number: int | None = connection.execute(_ADD, values).scalar()
        if number is not None:
            connection.execute(_DELETE_SECRETS, {"id": number})  # of a hook, which nobody knows
            connection.execute(_ADD_SECRET, {"id": number, "secret": secret})
        return number

    number = transact(engine, work)
    if number is None:
        is_there = bool(run(engine, _FOUND, {"given": url}))
        why = "this webhook is there already" if is_there else f"there are {MOST} webhooks already"
        raise UsageError(f"{why}: `nightmill webhook list`")
    return number, secret


def find(engine: Engine, given: str) -> int:
    """Return the number of the webhook with this URL or number; UsageError if there is none."""
    found = run(engine, _FOUND, {"given": given})
    if not found:
        near = nearest(given, [row.url for row in run(engine, _URLS, {})])
        hint = f"did you mean {shown(near)}?" if near else "`nightmill webhook list` shows those there are"
        raise UsageError(f"no webhook {shown(given)}: {hint}")
    number: int = found[0].id
    return number


def rotate(engine: Engine, number: int, overlap_s: float) -> str:
    """Give a webhook a new secret and return it; messages are signed by the former ones, too, for so long."""
    secret = new_secret()

    def work(connection: Connection) -> None:
        if not connection.execute(_LOCK, {"id": number}).all():
            raise UsageError("the webhook was removed just now")
        connection.execute(_FORGET_EXPIRED, {"id": number})
        connection.execute(_EXPIRE, {"id": number, "overlap_s": overlap_s})
        connection.execute(_ADD_SECRET, {"id": number, "secret": secret})

    transact(engine, work)
    return secret


def count_pending(engine: Engine, number: int) -> int:
    """Return how many messages a webhook hasn't taken yet, and will be sent."""
    found: int = run(engine, _PENDING, {"id": number})[0].messages
    return found


def remove(engine: Engine, number: int) -> None:
    """Remove a webhook, with its secrets and all messages to it."""
    run(engine, _REMOVE, {"id": number})


def webhooks(engine: Engine) -> list[dict[str, Any]]:
    """Return all webhooks with what became of the messages to them; never their secrets."""
    return [dict(row._mapping) | {"url": shown(row.url)} for row in run(engine, _LIST, {})]


def shown(url: str) -> str:
    """Return a URL without its query, and a command without its arguments: they may hold a key of the receiver's."""
    if "://" not in url.split(maxsplit=1)[0] and not url.startswith("mailto:"):
        program, _, arguments = url.partition(" ")
        return f"{program} …" if arguments else program
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts._replace(query="…").geturl() if parts.query else url
