"""Workers without a model: they claim, upload and complete through the real statements and the real store."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy import Engine

from jobs.job_dataclasses import Image, Job, LaneId
from jobs.queue import transitions
from jobs.storage.open import ObjectStore
from tests.chaos.ledger import signed
from tests.factories import image, look


def picture(job: Job) -> bytes:
    """The bytes that a job gives, the same every time."""
    return f"{job.prompt} {job.seed}".encode() * 40


def upload(store: ObjectStore, batch: str, job: Job) -> Image:
    """Store a job's picture as a worker does; the signed image is ready to be completed."""
    body = picture(job)
    digest = hashlib.sha256(body).hexdigest()
    key = f"{batch}/images/{job.ordinal // 1000:06d}/{job.ordinal:09d}-{job.index:05d}.{digest[:12]}.png"
    store.put(key, body, content_type="image/png")
    return signed(image(job, key=key, sha256=digest, bytes=len(body)))


def unfinished(engine: Engine) -> int:
    """How many jobs wait or run."""
    found: int = look(engine, "SELECT count(*) AS n FROM jobs WHERE state IN ('queued', 'running')")[0]["n"]
    return found


Work = Callable[[list[Job], random.Random], None]


def work_all(
    engine: Engine, lane: LaneId, work: Work, *, threads: int, limit: int, lease_s: float, seconds: float = 40
) -> None:
    """Threads that claim up to `limit` jobs and work on them, until none of any batch is unfinished."""
    deadline = time.monotonic() + seconds

    def worker(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < deadline:
            jobs = transitions.claim(engine, lane, limit=limit, worker=f"w{number}", lease_s=lease_s)
            if jobs:
                work(jobs, chance)
            elif not unfinished(engine):
                return
            else:
                time.sleep(0.02)

    with ThreadPoolExecutor(threads) as pool:
        for running in [pool.submit(worker, number) for number in range(threads)]:
            running.result()


@contextmanager
def rescuing(engine: Engine, every_s: float = 0.03) -> Iterator[None]:
    """A scheduler's rescue beside the block."""
    stopping = threading.Event()

    def rescue() -> None:
        while not stopping.wait(every_s):
            transitions.rescue(engine)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rescue)
        try:
            yield
        finally:
            stopping.set()
            running.result()
