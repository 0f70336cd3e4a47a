"""Transactions that are held open while tests run, so that no test rests on a feed that shows rows at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, pairwise
from threading import Event, Thread

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

HELD_S = 0.1
_BEGIN = text("SELECT pg_current_xact_id()")


@contextmanager
def older_transactions(engine: Engine) -> Iterator[None]:
    """Hold the server's feeds back: there is always a transaction that began up to 0.2 s ago.

    The feed waits for any older transaction of the server, also one of another database. A test that reads what it has
    just written without `tests.factories.await_feed` would fail only when the test beside it happens to write.
    """
    ended = Event()
    thread = Thread(target=_hold, args=(engine, ended), daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()


def _hold(engine: Engine, ended: Event) -> None:
    while not ended.is_set():
        try:
            with engine.connect() as one, engine.connect() as other:
                for older, newer in pairwise(cycle((one, other))):
                    newer.execute(_BEGIN)
                    older.rollback()
                    if ended.wait(HELD_S):
                        return
        except DBAPIError:
            ended.wait(HELD_S)  # a test has ended all connections of the server
