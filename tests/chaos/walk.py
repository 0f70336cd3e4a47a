"""A seeded walk through the machine of tests/jobs/queue/test_lifecycle.py, weighted towards what workers do too late.

It shrinks nothing and covers less than Hypothesis does; in return it comes to a mistake within some hundred steps.
"""

import random
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from jobs.job_dataclasses import Job
from jobs.states import RETRYABLE, ErrorKind
from tests.jobs.queue.test_lifecycle import ROWS, Lifecycle, on

STEPS = 60
KINDS = [*ErrorKind, *[ErrorKind.MODEL] * 8]


def walk(engine: Engine, seed: int) -> None:
    """Some steps, everything looked at after each; AssertionError, or what PostgreSQL says, if something is wrong."""
    with on(engine):
        Walker(random.Random(seed)).walk()


class Walker:
    """One machine, and the claims that its workers remember, lost ones included."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.machine: Any = Lifecycle()
        self.claims: list[Job] = list(self.machine.submit().values)
        self.moves: dict[Callable[[], None], float] = {
            self.claim: 4,
            self.end: 6,
            self.release: 2,
            self.extend: 2,
            self.fall_silent: 2,
            self.die: 3,
            self.of_the_table: 3,
            self.of_a_person: 2,
        }

    def walk(self) -> None:
        for _ in range(STEPS):
            self.look()
            (move,) = self.chance.choices(list(self.moves), list(self.moves.values()))
            if self.claims or move in (self.claim, self.of_a_person):
                move()
        self.look()

    def look(self) -> None:
        self.machine.the_tables_are_as_the_workers_know_them()
        self.machine.the_counts_are_true()

    def claim(self) -> None:
        worker = self.chance.choice(["w1", "w2"])
        found = self.machine.claim(worker, self.chance.randint(0, 1), self.chance.randint(1, 3))
        self.claims += found.values

    def end(self) -> None:
        lost = self._lost()
        most_tried = [max(self.claims, key=lambda job: job.attempt)]
        job = self.chance.choice(self.chance.choice([lost or most_tried, most_tried, self.claims]))
        self.claims.remove(job)
        match self.chance.choice(["complete", "fail", "fail", "fail", "block"]):
            case "complete":
                self.machine.complete(job)
            case "fail":
                self.machine.fail(job, self.chance.choice(KINDS), self.chance.choice([0, 0, 0, 0, 3600]))
            case _:
                self.machine.block(job)

    def release(self) -> None:
        self.machine.release(self._some())

    def extend(self) -> None:
        silent = [job for job in self.claims if job.id in self.machine.silent]
        self.machine.extend(silent[:1] if self.chance.random() < 0.5 else self._some())

    def fall_silent(self) -> None:
        for job in self._one_that_is_held():
            self.machine.fall_silent(job)

    def die(self) -> None:
        for job in self._one_that_is_held():
            self.machine.die(job)

    def of_the_table(self) -> None:
        self.chance.choice([self.machine.rescue, self.machine.wait, self.machine.fold])()

    def of_a_person(self) -> None:
        if self.machine.is_paused:
            self.machine.resume()
        elif self.chance.random() < 0.3:
            self.machine.pause()
        elif self.chance.random() < 0.3:
            self.machine.cancel()
        elif self.machine.unfinished + len(self.machine.pictures) < len(ROWS):
            states = set(self.chance.sample(RETRYABLE, self.chance.randint(1, 3)))
            self.machine.retry(states, self.chance.choice([None, None, *ErrorKind]))

    def _owns(self, job: Job) -> bool:
        return bool(self.machine.owners.get(job.id) == job)

    def _lost(self) -> list[Job]:
        return [job for job in self.claims if not self._owns(job)]

    def _one_that_is_held(self) -> list[Job]:
        held = [job for job in self.claims if self._owns(job)]
        return [self.chance.choice(held)] if held else []

    def _some(self) -> list[Job]:
        known = self.chance.choice([self._lost() or self.claims, self.claims])
        jobs = self.chance.sample(known, min(len(known), self.chance.randint(1, 3)))
        return list({job.id: job for job in jobs}.values())
