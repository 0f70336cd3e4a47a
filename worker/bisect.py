"""Run a stage on a batch of items; when it raises, bisect the batch to isolate the items at fault."""

import logging
import time
from collections.abc import Callable, Sequence

from jobs.errors import LeaseLostError, ObjectStoreError, UsageError
from jobs.logs.prompt_masking import without_prompt
from jobs.monitoring import metrics
from jobs.states import ErrorKind
from models.errors import InterruptedRender, ModelError, OutOfMemoryError, SafetyUnknownError
from worker.health.error_classification import HostFaultError, is_host_fault, reason_of
from worker.item import PipelineItem

log = logging.getLogger(__name__)

Run = Callable[[Sequence[PipelineItem]], list[PipelineItem]]


def run_stage(name: str, run: Run, items: Sequence[PipelineItem]) -> list[PipelineItem]:
    """Run a stage and record each item's share of the elapsed time; an item that fails alone is returned as ended."""
    started = time.perf_counter()
    done = isolated(run, items)
    took_s = time.perf_counter() - started
    for _ in done:
        metrics.STAGE_SECONDS.observe(took_s / len(done), name)
    return [item.spent(name, took_s / len(done)) for item in done]


def isolated(run: Run, items: Sequence[PipelineItem]) -> list[PipelineItem]:
    """Return the stage's result; on an error retry each half, down to the single item that causes it.

    Raises HostFaultError where the host is at fault and not an item.
    """
    try:
        return run(items)
    except (InterruptedRender, LeaseLostError, HostFaultError):
        raise
    except (Exception, SystemExit) as error:  # whatever a library raises for one job is that job's failure
        if not items:
            raise
        if is_host_fault(error):
            raise HostFaultError(reason_of(error)) from error
        if len(items) > 1:
            middle = len(items) // 2
            return isolated(run, items[:middle]) + isolated(run, items[middle:])
        return [ended(items[0], error)]


def ended(item: PipelineItem, error: BaseException) -> PipelineItem:
    """Return the item as ended by the error."""
    job = item.job
    text, place = without_prompt(str(error), job), {"job": job.id, "lease": job.lease}
    log.warning("job %d: %s: %s", job.id, type(error).__name__, text, extra=place)
    return item.ended(kind_of(error), f"{type(error).__name__}: {error}")


def kind_of(error: BaseException) -> ErrorKind:
    """Return the error kind that an exception maps to."""
    match error:
        case OutOfMemoryError():
            return ErrorKind.OUT_OF_MEMORY
        case SafetyUnknownError():
            return ErrorKind.SAFETY
        case ModelError():
            return ErrorKind.MODEL
        case ObjectStoreError():
            return ErrorKind.OBJECT_STORE
        case UsageError():
            return ErrorKind.BAD_INPUT
        case _:
            return ErrorKind.EXCEPTION
