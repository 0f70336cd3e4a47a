"""A worker that starts in the place of a drained one, as it is restarted or as its child process is replaced."""

import os

import psutil
import pytest
from sqlalchemy import Engine

from jobs.queue.worker_drains import drain, drains
from jobs.queue.worker_registry import workers
from jobs.states import DrainKind
from worker.liveness.worker_registration import Registration

OWN = os.getpid()


def gone() -> int:
    """The id of no process."""
    pids = psutil.pids()
    return next(pid for pid in range(2, 4_000_000) if pid not in pids)


@pytest.mark.parametrize("is_running", [True, False])
def test_a_worker_is_drained_if_the_one_before_it_was_and_is_gone(engine: Engine, is_running: bool) -> None:
    before, new = f"host:{OWN if is_running else gone()}", "host:9999999"
    for name in (before, new):
        registration = Registration(engine, name, "auto:0", "default")
        registration.take_over_drain()
        if name == before:
            drain(engine, [(DrainKind.WORKER, before)], drained_by="anna@desk")
    registration.renew()
    assert registration.is_drained is not is_running
    assert [one.target for one in drains(engine)] == [before if is_running else new]
    assert len(workers(engine)) == 2, "it registers before it looks"
