"""Workers that stop for three leases and then go on end no job that another has by then."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from jobs.errors import LeaseLostError
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from jobs.states import ErrorKind
from jobs.storage.open import S3Options, open_store
from tests.chaos.helpers import rescuing, upload, work_all
from tests.chaos.invariant import Facts, check
from tests.chaos.ledger import keep_ledger, signed_failure
from tests.chaos.mutants import FINISHES_BY_STATE, mutated
from tests.chaos.scale import scaled
from tests.factories import job_row, lanes_of, make_batch, take

LEASE_S = 0.25
JOBS = scaled(240, 6000)
ZOMBIES = 0.08


class Workers:
    """Eight threads, of whose claims 8 % are put to sleep for three leases; half of these sleep until it hurts most."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.store = open_store(str(folder), S3Options())
        self.batch = make_batch(engine, JOBS, output=str(folder), max_attempts=100)
        self.seen: Counter[str] = Counter()

    def run(self) -> Facts:
        keep_ledger(self.engine)
        (lane,) = lanes_of(self.engine, self.batch)
        with rescuing(self.engine):
            work_all(
                self.engine, lane, self.work, threads=8, limit=3, lease_s=LEASE_S, seconds=scaled(40, 900)
            )
        return check(self.engine, self.batch.name, places=[(row, 0) for row in range(JOBS)])

    def work(self, jobs: list[Job], chance: random.Random) -> None:
        is_zombie = chance.random() < ZOMBIES
        self.seen["zombies"] += is_zombie * len(jobs)
        time.sleep(3 * LEASE_S if is_zombie else chance.random() * 0.04)
        if is_zombie and chance.random() < 0.5:
            self._sleep_until_another_has(jobs[0])
        for job in jobs:
            try:
                self._end(job, chance.random())
            except LeaseLostError:
                self.seen["lost"] += is_zombie

    def _end(self, job: Job, luck: float) -> None:
        if luck < 0.1:
            transitions.fail(self.engine, [signed_failure(job)], delay_s=0.01)
        elif luck < 0.2:
            transitions.block(self.engine, [signed_failure(job, ErrorKind.SAFETY)])
        else:
            transitions.complete(self.engine, [upload(self.store, self.batch.name, job)])

    def _sleep_until_another_has(self, job: Job) -> None:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            row = job_row(self.engine, job)
            if row["finished_at"] or row["lease"] not in (None, job.lease):
                return
            time.sleep(0.005)


def test_no_zombie_ends_a_job_of_another(engine: Engine, tmp_path: Path) -> None:
    workers = Workers(engine, tmp_path)
    facts = workers.run()
    assert facts.jobs == JOBS
    assert set(facts.states) == {"done", "blocked"}
    assert facts.attempts > JOBS
    assert workers.seen["zombies"] >= JOBS * 0.02
    assert workers.seen["lost"] > workers.seen["zombies"] / 2, "they came too late"
    assert facts.swept > 0, "what they uploaded"


def test_twin_guarded_by_state_alone_lets_them(engine: Engine, tmp_path: Path) -> None:
    with mutated(*FINISHES_BY_STATE), pytest.raises(AssertionError, match="which no longer had it"):
        Workers(engine, tmp_path).run()


@pytest.mark.parametrize("is_twin", [False, True], ids=["guarded", "twin guarded by state alone"])
def test_a_process_that_was_stopped_while_another_took_its_job(
    engine: Engine, tmp_path: Path, is_twin: bool
) -> None:
    """A true SIGSTOP, with the worker's own thread that renews leases in the stopped process."""
    keep_ledger(engine)
    batch = make_batch(engine, 1, output=str(tmp_path))
    (lane,) = lanes_of(engine, batch)
    arguments = [
        engine.url.render_as_string(hide_password=False),
        str(lane),
        batch.name,
        str(tmp_path),
        str(int(is_twin)),
    ]
    with psutil.Popen(
        [sys.executable, "-m", "tests.chaos.zombie", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "claimed\n"
        time.sleep(3 * LEASE_S)
        assert transitions.rescue(engine) == 0, "it renews its lease"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3 * LEASE_S)
        assert transitions.rescue(engine) == 1
        (job,) = take(engine, lane, worker="another")
        process.send_signal(signal.SIGCONT)
        process.stdin.write("go on\n")
        process.stdin.flush()
        said = process.stdout.read()
        assert process.wait(150) == 0
    store = open_store(str(tmp_path), S3Options())
    made = upload(store, batch.name, job)
    with pytest.raises(LeaseLostError) if is_twin else nullcontext():
        transitions.complete(engine, [made])
    with pytest.raises(AssertionError, match="which no longer had it") if is_twin else nullcontext():
        assert check(engine, batch.name, places=[(0, 0)]).attempts == 2
    assert said == ("completed\n" if is_twin else "lost\n")
