"""Consumers of the feed whose cursor is kept here: one reader of a name at a time, and how far each has come."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.feed.feed import Cursor, check_cursor
from jobs.feed.feed_query import FeedQuery
from jobs.states import EventKind
from jobs.suggest_names_and_shorten_lists import nearest

READERS = 0x6E6D7264
"""First key of the advisory locks of consumers that are being read; the second one is the consumer's id."""

READS = """locktype = 'advisory' AND granted AND objsubid = 2
    AND classid = CAST(:readers AS bigint)::oid AND objid = CAST({number} AS bigint)::oid
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""SQL condition: a row of pg_locks is the lock of whoever reads as the consumer with this number."""

_CURSOR = 'epoch, xid::text AS xid, "position" AS id'

_CREATE = text("""
    INSERT INTO consumers (name, epoch, xid, "position") VALUES (:name, :epoch, CAST(:xid AS xid8), :id)
    ON CONFLICT DO NOTHING RETURNING id
""")
_FIND = text(f"SELECT id AS number, {_CURSOR}, filter FROM consumers WHERE name = :name")
_NAMES = text("SELECT name FROM consumers ORDER BY name")
_LOCK = text("SELECT pg_try_advisory_xact_lock(:readers, :number)")
_READER = text(f"""
    SELECT pid, client_addr::text AS host FROM pg_stat_activity
    WHERE pid IN (SELECT pid FROM pg_locks WHERE {READS.format(number=":number")})
""")
_ACKNOWLEDGE = text("""
    UPDATE consumers SET epoch = :epoch, xid = CAST(:xid AS xid8), "position" = :id, acknowledged_at = now(),
        kinds = CAST(:kinds AS text[]), batch_id = :batch, filter = :filter
    WHERE name = :name AND (epoch, xid, "position") = (:old_epoch, CAST(:old_xid AS xid8), :old_id)
    RETURNING id
""")
_SET = text("""
    UPDATE consumers SET epoch = :epoch, xid = CAST(:xid AS xid8), "position" = :id, filter = NULL WHERE name = :name
    RETURNING id
""")
_REMOVE = text("DELETE FROM consumers WHERE name = :name RETURNING id")


class ConsumerBusyError(UsageError):
    """Another process is reading as this consumer."""


class Turn:
    """The right to read as a consumer: `cursor` is how far it has come."""

    def __init__(self, engine: Engine, name: str, cursor: Cursor, query: FeedQuery) -> None:
        self._engine, self._name, self._query = engine, name, query
        self.cursor = cursor

    def acknowledge(self, cursor: Cursor) -> None:
        """Note that all up to this cursor has been dealt with. Raises UsageError if somebody else has moved it."""
        if cursor == self.cursor:
            return
        kinds = (EventKind.IMAGE,) if self._query.kinds is None else self._query.kinds
        old = {"old_epoch": self.cursor.epoch, "old_xid": str(self.cursor.xid), "old_id": self.cursor.id}
        more = {
            "name": self._name,
            "kinds": list(kinds),
            "batch": self._query.batch,
            "filter": self._query.filter,
        }
        if not run(self._engine, _ACKNOWLEDGE, cursor.values | old | more):
            raise UsageError(
                f"the cursor of the consumer {self._name} was changed by somebody else: some lines come again"
            )
        self.cursor = cursor


@contextmanager
def turn(engine: Engine, name: str, query: FeedQuery, since: Cursor | None = None) -> Iterator[Turn]:
    """Hold the right to read as a consumer, which begins at `since`, or at the start, if it is new.

    The right is an advisory lock of a transaction that writes nothing, so that it ends with its connection and doesn't
    hold the feed back. Raises ConsumerBusyError if another process has it, and UsageError if the consumer has read by
    another query before.
    """
    find_or_create(engine, name, since)
    with engine.connect() as connection:
        row = connection.execute(_FIND, {"name": name}).one_or_none()
        if row is None:
            raise UsageError(f"the consumer {name} was removed just now")
        key = {"readers": READERS, "number": row.number}
        if not connection.execute(_LOCK, key).scalar_one():
            found = connection.execute(_READER, key).first()
            who = (
                f" (process {found.pid} of PostgreSQL, from {found.host or 'its own host'})" if found else ""
            )
            raise ConsumerBusyError(f"another process is reading as the consumer {name}{who}")
        row = connection.execute(_FIND, {"name": name}).one()  # as the one before has left it
        if row.filter not in (None, query.filter):
            place = Cursor(row.epoch, int(row.xid), row.id)
            raise UsageError(
                f"the consumer {name} has read with other --events, --batch or --where: what those left out would be "
                f"lost to it; name another consumer, or say `nightmill consumers --reset {name} {place}` first"
            )
        yield Turn(engine, name, Cursor(row.epoch, int(row.xid), row.id), query)


def find_or_create(engine: Engine, name: str, since: Cursor | None) -> None:
    """Make sure that there is a consumer of this name; UsageError for `since` if it has its own cursor already."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"{name!r} can't name a consumer: letters, digits, '.', '_' and '-', at most 100")
    begin = since or Cursor(0, 0, 0)
    check_cursor(engine, begin)
    if run(engine, _CREATE, {"name": name} | begin.values) or since is None:
        return
    raise UsageError(
        f"the consumer {name} has its own cursor: leave --since off, or `nightmill consumers --reset {name} {since}`"
    )


def reset(engine: Engine, name: str, cursor: Cursor) -> None:
    """Set how far a consumer has come. Raises UsageError if there is none, or the cursor isn't of this database."""
    check_cursor(engine, cursor)
    if not run(engine, _SET, {"name": name} | cursor.values):
        _fail(engine, name)


def remove(engine: Engine, name: str) -> None:
    """Forget a consumer. Raises UsageError if there is none."""
    if not run(engine, _REMOVE, {"name": name}):
        _fail(engine, name)


def _fail(engine: Engine, name: str) -> None:
    names = [row.name for row in run(engine, _NAMES, {})]
    near = nearest(name, names)
    raise UsageError(f"there is no consumer {name!r}" + (f": did you mean {near!r}?" if near else ""))
