"""Reads an iterator ahead in a thread: the database sends the next rows while those before are written."""

from collections.abc import Generator, Iterator
from queue import Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


class _End:
    """What follows the last item: the error that ended the reading, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Iterator[T], most: int = 1) -> Generator[T, None, None]:
    """Yield the items, with up to `most` of them read in advance. Close the generator if you don't exhaust it."""
    waiting: Queue[T | _End] = Queue(most)
    is_closed = Event()

    def read() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                waiting.put(item)
                if is_closed.is_set():
                    return
        except BaseException as caught:
            error = caught
        waiting.put(_End(error))

    reader = Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_closed.set()
        while reader.is_alive():
            while not waiting.empty():
                waiting.get()
            reader.join(0.01)
