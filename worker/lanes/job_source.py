"""Source of claimed jobs for the continuous batch; claims more when it runs out."""

from collections import deque
from collections.abc import Callable, Sequence

from jobs.job_dataclasses import Job


class JobSource:
    """Jobs of one lane, sorted by steps within each claim, most first, so that few batch rows are idle at the end.

    Jobs that were never claimed before follow one another without a gap. Jobs that were released to the queue are
    generated with jobs of their own claim only, since the claim may be small for a reason (see
    `jobs.queue.transitions.claim`): such a claim is kept in `left` for the next source.
    """

    def __init__(
        self, jobs: Sequence[Job], *, claim: Callable[[], list[Job]], is_open: Callable[[], bool]
    ) -> None:
        self.left: list[Job] = []
        self._claim, self._is_open = claim, is_open
        self._joins, self._has_ended = _are_fresh(jobs), False
        self._waiting = deque(_longest_first(jobs))

    def next(self) -> Job | None:
        """Return the next job; None, from then on, when there is none or no job may begin."""
        self._has_ended = self._has_ended or not self._is_open()
        if self._has_ended:
            return None
        if not self._waiting and self._joins and not self.left:
            self._take_more()
        self._has_ended = not self._waiting
        return self._waiting.popleft() if self._waiting else None

    def rest(self) -> list[Job]:
        """Return the jobs that were claimed for this source and not used."""
        return list(self._waiting)

    def _take_more(self) -> None:
        jobs = self._claim()
        if _are_fresh(jobs):
            self._waiting.extend(_longest_first(jobs))
        else:
            self.left = jobs


def _are_fresh(jobs: Sequence[Job]) -> bool:
    return all(job.is_fresh for job in jobs)


def _longest_first(jobs: Sequence[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: -job.steps)
