"""A store behind a bad network: every damaged upload and download is caught, and nothing is lost."""

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.errors import ObjectStoreError
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from jobs.states import ErrorKind
from jobs.storage.open import ObjectStore, S3Options, open_store
from jobs.storage.s3 import S3Store
from tests.chaos.helpers import upload, work_all
from tests.chaos.invariant import Facts, check
from tests.chaos.ledger import keep_ledger
from tests.chaos.proxy import Fault, Proxy, faulty
from tests.chaos.scale import scaled
from tests.factories import failure, lanes_of, look, make_batch
from tests.s3 import S3Server

JOBS = scaled(120, 5000)
SHARE = scaled(0.05, 0.01)
READ_TIMEOUT_S = 0.5


def run(engine: Engine, s3: S3Server, proxy: Proxy, output: str) -> Facts:
    """A batch whose images go through the proxy, and are judged past it."""
    keep_ledger(engine)
    store = open_store(output, through(proxy))
    batch = make_batch(engine, JOBS, output=output, max_attempts=100)

    def work(jobs: list[Job], _: random.Random) -> None:
        for job in jobs:
            try:
                transitions.complete(engine, [upload(store, batch.name, job)])
            except ObjectStoreError as error:
                transitions.fail(engine, [failure(job, ErrorKind.OBJECT_STORE, str(error))], delay_s=0.01)

    work_all(
        engine, lanes_of(engine, batch)[0], work, threads=8, limit=2, lease_s=30, seconds=scaled(40, 900)
    )
    places = [(row, 0) for row in range(JOBS)]
    return check(engine, batch.name, places=places, s3=S3Options(s3.endpoint_url, "us-east-1"))


def through(proxy: Proxy) -> S3Options:
    """With little patience: what fails twice is the job's failure, and tried again by another attempt."""
    return S3Options(proxy.endpoint_url, "us-east-1", 2, READ_TIMEOUT_S, max_attempts=2)


def test_nothing_damaged_is_referenced_and_nothing_lost(engine: Engine, s3: S3Server, tmp_path: Path) -> None:
    output = f"{s3.uri}/{tmp_path.name}"
    with faulty(s3.endpoint_url, share=SHARE, hang_s=2 * READ_TIMEOUT_S) as proxy:
        facts = run(engine, s3, proxy, output)
        assert facts.states == {"done": JOBS}
        assert facts.attempts > JOBS, "what the store's client could not mend was tried again"
        assert all(proxy.counts().values()), proxy.counts()
        assert proxy.seen["PUT", Fault.FLIPPED] > 0
        assert proxy.seen["PUT", Fault.TRUNCATED] > 0
        proxy.seen.clear()
        store = open_store(output, through(proxy))
        assert damaged(engine, store.get) == 0
        assert proxy.seen["GET", Fault.FLIPPED] > 0
        assert proxy.seen["GET", Fault.TRUNCATED] > 0
        unchecked = damaged(engine, partial(read_unchecked, store))
    assert unchecked > 0, "the twin, which doesn't compare what it read"


def damaged(engine: Engine, read: Callable[[str], bytes]) -> int:
    """Read every image until that works; returns how many aren't what their row says."""

    def is_damaged(row: dict[str, Any]) -> bool:
        while True:
            with suppress(ObjectStoreError):
                return hashlib.sha256(read(row["key"])).hexdigest() != row["sha256"]

    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(is_damaged, look(engine, "SELECT key, sha256 FROM images")))


def read_unchecked(store: ObjectStore, key: str) -> bytes:
    """An object as the network brings it."""
    assert isinstance(store, S3Store)
    return store.read(store._root + key, 1 << 20)


def trust(*_: Any, **__: Any) -> None:
    """Believe that the store has what was sent."""


def test_twin_that_trusts_the_store_references_damaged_objects(
    engine: Engine, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Store, "_verify", trust)
    with (
        faulty(s3.endpoint_url, share=SHARE, hang_s=2 * READ_TIMEOUT_S) as proxy,
        pytest.raises(AssertionError, match="isn't what its row says"),
    ):
        run(engine, s3, proxy, f"{s3.uri}/{tmp_path.name}")
