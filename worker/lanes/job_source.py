"""Claimed jobs for a model that is kept full: where they run out, more are claimed."""

from collections import deque
from collections.abc import Callable, Sequence

from jobs.job import Job


class JobSource:
    """Jobs of one lane, those with the most steps of a claim first, so that few rows are empty at the end.

    Jobs that nobody had claimed before follow one another without a gap. What came back to the queue is drawn in the
    company of its own claim only, since it may be small for a reason (see `jobs.queue.transitions.claim`): such a
    claim is `left` for the next supply.
    """

    def __init__(
        self, jobs: Sequence[Job], *, claim: Callable[[], list[Job]], is_open: Callable[[], bool]
    ) -> None:
        self.left: list[Job] = []
        self._claim, self._is_open = claim, is_open
        self._joins = _are_fresh(jobs)
        self._waiting = deque(_longest_first(jobs))

    def next(self) -> Job | None:
        """The job to be drawn next; None when there is none, or none may begin."""
        if not self._is_open():
            return None
        if not self._waiting and self._joins and not self.left:
            self._take_more()
        return self._waiting.popleft() if self._waiting else None

    def rest(self) -> list[Job]:
        """Jobs that were claimed for this supply and not asked for."""
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
