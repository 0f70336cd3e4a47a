"""Continuous batching: rows of the UNet batch that become free are refilled at once."""

import itertools
from collections.abc import Callable, Iterator

from models.engine.denoising_request import EngineRequest
from models.engine.denoising_slots import Finished, UNetBatch


def flow(
    batch: UNetBatch, engine_requests: Iterator[EngineRequest], on_call: Callable[[int], None]
) -> Iterator[list[Finished]]:
    """Yield the images that each UNet call finishes (most calls finish none), until no request is left.

    The next request is taken from the iterator only when a row is empty. `on_call(i)` is called before the i-th UNet
    call, starting at 0. Any exception leaves the batch empty.
    """
    waiting: EngineRequest | None = None
    try:
        for call in itertools.count():
            while (
                batch.is_open
                and batch.empty_rows
                and (waiting := waiting or next(engine_requests, None))
                and batch.has_room(waiting)
            ):
                batch.admit(waiting)
                waiting = None
            if batch.is_empty:
                return
            on_call(call)
            yield batch.call()
    finally:
        batch.clear()
