"""A pool of processes that synchronise at a barrier, so that their times can be compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier

START_S = 120


@contextmanager
def together(members: int) -> Iterator[Pool]:
    """Yield a pool of this many new processes, whose functions may call `wait_for_all`.

    The barrier is inherited: a manager's barrier is reached by a unix socket in the temporary folder, whose path may be
    too long.
    """
    context = get_context("spawn")
    with context.Pool(members, initializer=_join, initargs=(context.Barrier(members),)) as pool:
        yield pool


def wait_for_all() -> None:
    """Wait until all processes of the pool have called this; BrokenBarrierError after START_S seconds."""
    _joined[0].wait(START_S)


_joined: list[Barrier] = []


def _join(barrier: Barrier) -> None:
    _joined[:] = [barrier]
