"""Renews a lease in a thread for as long as a block of code runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from sqlalchemy.exc import SQLAlchemyError


@contextmanager
def renewed(renew: Callable[[], object], lease_s: float) -> Iterator[None]:
    """Call `renew` four times per `lease_s` until the block ends, or it returns something false: the lease is lost.

    While PostgreSQL is unavailable it is called again; a lease that has run out shows in the next guarded statement.
    """
    ended = Event()

    def keep() -> None:
        while not ended.wait(lease_s / 4):
            with suppress(SQLAlchemyError):
                if not renew():
                    return

    thread = Thread(target=keep, daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
