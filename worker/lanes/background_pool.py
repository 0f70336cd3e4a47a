"""A pool of background threads that finish and store generated images while the device continues."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from jobs.logs.prompt_masking import log_error_of_jobs
from worker.item import PipelineItem

log = logging.getLogger(__name__)

LOOK_S = 0.2

GiveUp = Callable[[], bool]


class BackgroundPool:
    """Passes batches of items to threads; `put` blocks while the queue is full, so that memory stays bounded."""

    def __init__(
        self, deliver: Callable[[Sequence[PipelineItem]], None], *, threads: int = 4, waiting: int = 4
    ) -> None:
        self._deliver = deliver
        self._bundles: queue.Queue[Sequence[PipelineItem] | None] = queue.Queue(maxsize=waiting)
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"finish-{n}") for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, items: Sequence[PipelineItem], give_up: GiveUp = lambda: False) -> bool:
        """Queue a batch for delivery; blocks while the queue is full, and returns False if `give_up` does so first."""
        return not items or self._put(items, give_up)

    def wait(self, give_up: GiveUp = lambda: False) -> bool:
        """Wait until every batch put so far is delivered; False if `give_up` returned True first."""
        with self._bundles.all_tasks_done:
            while self._bundles.unfinished_tasks and not give_up():
                self._bundles.all_tasks_done.wait(LOOK_S)
            return not self._bundles.unfinished_tasks

    def drain(self, give_up: GiveUp = lambda: False) -> bool:
        """Wait until every batch is delivered and end the threads; False if `give_up` returned True first."""
        if not all(self._put(None, give_up) for _ in self._threads):
            return False
        for thread in self._threads:
            while thread.is_alive() and not give_up():
                thread.join(LOOK_S)
        return not any(thread.is_alive() for thread in self._threads)

    def _put(self, bundle: Sequence[PipelineItem] | None, give_up: GiveUp) -> bool:
        while True:
            try:
                self._bundles.put(bundle, timeout=LOOK_S)
                return True
            except queue.Full:
                if give_up():
                    return False

    def _work(self) -> None:
        while (items := self._bundles.get()) is not None:
            try:
                self._deliver(items)
            except BaseException as error:  # if the thread ended, `put` would wait for it for ever
                log_error_of_jobs(log, f"{len(items)} images could not be delivered", error)
            finally:
                self._bundles.task_done()
