"""Signs of life: a child shows how many steps it has made and how long the next may take; its parent judges.

Both numbers lie in a file that the two have in memory. A hung call to the device may hold the interpreter, so that no
thread of the child could say anything; one that lets go of it leaves a thread that renews the leases for ever.
"""

import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jobs.job import LaneId
from worker.bisect import Stage
from worker.item import PipelineItem

log = logging.getLogger(__name__)

FOLDER = "NIGHTMILL_PULSES"
UNHURRIED = 6
_UNJUDGED = ("pictures",)  # opens files, here or far away, with time limits of their own


@dataclass(frozen=True)
class Beat:
    """`beats` counts what happened; the next must come within `patience_s` seconds, unless that is 0."""

    beats: int
    patience_s: float


class Record:
    """A sign in 16 bytes that several processes share; in no file, it is this process's own."""

    def __init__(self, path: Path | None = None, *, new: bool = False) -> None:
        number = (
            -1 if path is None else os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if new else 0), 0o600)
        )
        try:
            if new:
                os.write(
                    number, bytes(16)
                )  # not merely its length: on a full disk, memory without room ends the process
            self._memory = mmap.mmap(number, 16)
        finally:
            if path is not None:
                os.close(number)
        self._beats = memoryview(self._memory)[:8].cast("q")
        self._patience = memoryview(self._memory)[8:].cast("d")

    def read(self) -> Beat:
        """The sign as it is; `beats` is never older than `patience_s`."""
        patience_s = self._patience[0]
        return Beat(self._beats[0], patience_s)

    def beat(self, patience_s: float | None = None) -> None:
        """Something happened; None leaves the patience as it was."""
        self._beats[0] += 1
        if patience_s is not None:
            self._patience[0] = patience_s


class Heartbeat:
    """What the thread of a child that renders tells. Steps are judged by `stall_timeout_s` seconds.

    Six times that may pass while a model is loaded or deliveries are waited for, and between the steps of a lane's
    first device batch, in which some models are compiled.
    """

    def __init__(self, stall_timeout_s: float, record: Record | None = None) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._record = record or Record()
        self._kit: object = None
        self._warm: set[LaneId] = set()

    @classmethod
    def of_child(cls, stall_timeout_s: float) -> Self:
        """That of this process, in the folder that its parent looks at; where that is full, nobody looks."""
        folder = os.environ.get(FOLDER)
        try:
            return cls(stall_timeout_s, Record(Path(folder) / str(os.getpid()), new=True) if folder else None)
        except OSError as error:
            log.warning("hung devices won't be seen: can't write to %s: %s", folder, error.strerror)
            return cls(stall_timeout_s)

    def beat(self) -> None:
        """A step was made."""
        self._record.beat()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Outside of it, a child that is silent is idle."""
        self._record.beat(UNHURRIED * self._stall_timeout_s)
        try:
            yield
        finally:
            self._record.beat(0)

    @contextmanager
    def device_batch(
        self, lane_models: object, lane: LaneId, stages: Sequence[tuple[str, Stage]]
    ) -> Iterator[list[tuple[str, Stage]]]:
        """The stages of a device batch, to be run within it, now judged by their steps."""
        if lane_models is not self._kit:
            self._kit, self._warm = lane_models, set()
        patience_s = self._stall_timeout_s * (1 if lane in self._warm else UNHURRIED)
        yield [
            (name, stage if name in _UNJUDGED else self._judged(stage, patience_s)) for name, stage in stages
        ]
        self._warm.add(lane)

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Within it, in the middle of a stage, what has time limits of its own is done."""
        patience_s = self._record.read().patience_s
        self._record.beat(max(patience_s, UNHURRIED * self._stall_timeout_s))
        try:
            yield
        finally:
            self._record.beat(patience_s)

    def _judged(self, stage: Stage, patience_s: float) -> Stage:
        def judged(items: Sequence[PipelineItem]) -> list[PipelineItem]:
            self._record.beat(patience_s)
            try:
                return stage(items)
            finally:
                self._record.beat(UNHURRIED * self._stall_timeout_s)

        return judged
