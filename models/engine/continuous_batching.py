"""Images through a UNet batch: rows that come free are taken by the next ones at once."""

import itertools
from collections.abc import Callable, Iterator

from models.engine.request import EngineRequest
from models.engine.unet_batch import Finished, UNetBatch


def flow(
    batch: UNetBatch, engine_requests: Iterator[EngineRequest], on_call: Callable[[int], None]
) -> Iterator[list[Finished]]:
    """What each UNet call finishes, mostly nothing, until no ticket is left; one is asked for when a row is empty.

    `on_call(i)` is called before the i-th UNet call, from 0 on. Whatever is raised on the way leaves the batch empty.
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
