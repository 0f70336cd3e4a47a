"""Heartbeats: a child counts its steps and states how long the next may take; its parent kills it if it stalls.

The numbers are in a file that the two processes map into memory. A hung call to the device may hold the interpreter's
lock, so that no thread of the child can report; one that releases it leaves a thread that renews the leases for ever.
"""

import logging
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jobs.job_dataclasses import LaneId

log = logging.getLogger(__name__)

FOLDER = "NIGHTMILL_HEARTBEATS"
UNHURRIED = 6
SIZE = 32


@dataclass(frozen=True)
class Beat:
    """`beats` counts events; the next must come within `patience_s` seconds, unless that is 0."""

    beats: int
    patience_s: float


class Record:
    """A heartbeat in memory shared by processes; without a path it is private to this process.

    It also has the times, by the system's monotonic clock, at which it was created and at which work last ended.
    """

    def __init__(self, path: Path | None = None, *, new: bool = False) -> None:
        number = (
            -1 if path is None else os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if new else 0), 0o600)
        )
        try:
            if new:
                os.write(
                    number, bytes(SIZE)
                )  # written, not truncated to length: on a full disk, a sparse mapping raises SIGBUS
            self._memory = mmap.mmap(number, SIZE)
        finally:
            if path is not None:
                os.close(number)
        self._beats = memoryview(self._memory)[:8].cast("q")
        self._patience = memoryview(self._memory)[8:16].cast("d")
        self._times = memoryview(self._memory)[16:].cast("d")
        if new:
            self._times[0] = time.monotonic()

    def read(self) -> Beat:
        """Return the current heartbeat; `beats` is never older than `patience_s`."""
        patience_s = self._patience[0]
        return Beat(self._beats[0], patience_s)

    def created_at(self) -> float:
        """When the record was created."""
        return self._times[0]

    def worked_at(self) -> float:
        """When work last ended; 0 if there was none yet."""
        return self._times[1]

    def note_worked(self) -> None:
        """Record that work has ended."""
        self._times[1] = time.monotonic()

    def beat(self, patience_s: float | None = None) -> None:
        """Count an event; None leaves `patience_s` unchanged."""
        self._beats[0] += 1
        if patience_s is not None:
            self._patience[0] = patience_s


class Heartbeat:
    """The heartbeat of a child's rendering thread. A step may take `stall_timeout_s` seconds.

    Six times that is allowed while a model is loaded or deliveries are waited for, and between the steps of a lane's
    first device batch, in which some models are compiled.
    """

    def __init__(self, stall_timeout_s: float, record: Record | None = None) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._record = record or Record()
        self._lane_models: object = None
        self._warm: set[LaneId] = set()

    @classmethod
    def of_child(cls, stall_timeout_s: float) -> Self:
        """Create this process's heartbeat in the folder that the parent watches; unwatched if the disk is full."""
        folder = os.environ.get(FOLDER)
        try:
            return cls(stall_timeout_s, Record(Path(folder) / str(os.getpid()), new=True) if folder else None)
        except OSError as error:
            log.warning("hung devices won't be seen: can't write to %s: %s", folder, error.strerror)
            return cls(stall_timeout_s)

    def beat(self) -> None:
        """Report a step."""
        self._record.beat()

    def note_worked(self) -> None:
        """Report that jobs were taken up, and that this is over."""
        self._record.note_worked()

    def has_worked(self) -> bool:
        """Whether jobs were ever taken up by this process."""
        return self._record.worked_at() > 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Report this child as busy in this block; outside of it, a silent child is idle."""
        self._record.beat(UNHURRIED * self._stall_timeout_s)
        try:
            yield
        finally:
            self._record.beat(0)

    @contextmanager
    def device_batch(self, lane_models: object, lane: LaneId) -> Iterator[None]:
        """Require a beat at least every stall timeout in this block; every six before `note_warm`."""
        if lane_models is not self._lane_models:
            self._lane_models, self._warm = lane_models, set()
        self._record.beat(self._stall_timeout_s * (1 if lane in self._warm else UNHURRIED))
        try:
            yield
        finally:
            self._record.beat(UNHURRIED * self._stall_timeout_s)

    def note_warm(self, lane: LaneId) -> None:
        """Record that the lane's first device batch is finished: whatever is compiled for it has been."""
        self._warm.add(lane)
