"""A reader of the feed that is killed fifty times beside eight writers and one long transaction."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from jobs.job_dataclasses import Job
from jobs.queue import transitions
from tests.chaos.reader import lines
from tests.chaos.scale import scaled
from tests.factories import image, make_lane, take

WRITERS = 8
LONG_S = scaled(5.0, 60.0)
SECONDS = LONG_S + 3
JOBS_EACH = scaled(150, 1500)
KILLS = scaled(50, 500)


def store(connection: Connection, jobs: list[Job]) -> None:
    """Complete jobs inside a transaction that the caller ends."""
    records = json.dumps([image(job).record() for job in jobs])
    assert len(connection.execute(transitions._COMPLETE, {"records": records, "safety": None}).all()) == len(
        jobs
    )


def write(engine: Engine, jobs: list[Job], seed: int) -> int:
    """Complete jobs over SECONDS in transactions that end when they like; 5 % are rolled back and done again."""
    chance, rolled_back = random.Random(seed), 0
    pause = 2 * SECONDS / len(jobs)
    while jobs:
        part = jobs[: chance.randint(1, 3)]
        with engine.connect() as connection:
            store(connection, part)
            time.sleep(chance.random() * pause * 2)
            if chance.random() < 0.05:
                connection.rollback()
                rolled_back += 1
                continue
            connection.commit()
        del jobs[: len(part)]
    return rolled_back


def write_for_long(engine: Engine, jobs: list[Job]) -> int:
    """One transaction that takes its first id long before it ends; what comes meanwhile is read after it."""
    time.sleep(1.5)
    with engine.begin() as connection:
        store(connection, jobs[:1])
        time.sleep(LONG_S)
        store(connection, jobs[1:])
    return 0


@pytest.mark.timeout(scaled(300, 900))
def test_none_is_missed_and_none_comes_twice(engine: Engine, tmp_path: Path) -> None:
    lane = make_lane(engine, WRITERS * JOBS_EACH + 2)
    portions = [take(engine, lane, JOBS_EACH) for _ in range(WRITERS)]
    late = take(engine, lane, 2)
    expected = Counter(job.id for jobs in (*portions, late) for job in jobs)
    book = tmp_path / "seen"
    url = engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.reader", url, str(book), str(KILLS), str(SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as readers:
        with ThreadPoolExecutor(WRITERS + 1) as threads:
            long = threads.submit(write_for_long, engine, late)
            writers = [threads.submit(write, engine, jobs, seed) for seed, jobs in enumerate(portions)]
            rolled_back = sum(writer.result() for writer in [*writers, long])
        deadline = time.monotonic() + scaled(30, 300)
        while len(lines(book)) < expected.total() and time.monotonic() < deadline:
            time.sleep(0.05)
        said, _ = readers.communicate()
        assert readers.returncode == 0
    assert int(said) > KILLS / 10, "readers that were killed after they had read something"
    assert rolled_back > 0
    assert Counter(job for job, _ in lines(book)) == expected
    twin = {job for job, _ in lines(Path(f"{book}.twin"))}
    assert expected.keys() - twin, "the twin, which reads by id, loses rows"
