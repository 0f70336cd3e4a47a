"""Two installations, one output, one batch name: sweeps and deletions of the one cost the other no image."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.db.engine import connect
from jobs.errors import ForeignOutputError, UsageError
from jobs.outputs import ownership
from jobs.outputs.mount_marker import open_output
from jobs.queue import transitions
from jobs.storage.open import ObjectStore, S3Options
from scheduler.export.export_request import ExportRequest
from scheduler.export.run_export import export
from scheduler.ingest.ingest import Ingested
from scheduler.orphaned_objects import sweep_batch
from tests.chaos.helpers import upload
from tests.chaos.invariant import check
from tests.chaos.scale import scaled
from tests.factories import change, lanes_of, make_batch, take
from tests.s3 import S3Server
from tests.servers import DatabasePool

JOBS = scaled(12, 400)
ROUNDS = scaled(6, 100)
NAMES = ("night", "day")


@pytest.fixture
def another(databases: DatabasePool) -> Iterator[Engine]:
    """The second installation's database."""
    with databases.new() as url:
        engine = connect(url, pool_size=10)
        yield engine
        engine.dispose()


@pytest.fixture(params=["folder", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> tuple[str, S3Options]:
    """Where both write to."""
    if request.param == "folder":
        return str(tmp_path / "output"), S3Options()
    return f"{s3.uri}/{tmp_path.name}", S3Options(s3.endpoint_url, "us-east-1")


class Installation:
    """Workers, a sweeper and a person who deletes and exports, on a database of their own."""

    def __init__(self, engine: Engine, output: tuple[str, S3Options], seed: int, *, has_owners: bool) -> None:
        self.engine, self.output, self.has_owners = engine, output, has_owners
        self.chance = random.Random(seed)
        self.refused: set[str] = set()
        self.batches = [self._submit(name) for name in NAMES]

    @property
    def owned(self) -> list[Ingested]:
        """Batches that it could render."""
        return [batch for batch in self.batches if batch.name not in self.refused]

    def live(self) -> None:
        """Render all that it may, and sweep, export and delete what it has of the same names meanwhile."""
        for batch in self.batches:
            self._try(batch, self._render)
        for _ in range(ROUNDS):
            batch = self.chance.choice(self.batches)
            self._try(batch, self.chance.choice([self._sweep, self._delete_files, self._export]))

    def _submit(self, name: str) -> Ingested:
        """Taken in by an earlier version, which claimed nothing: the worker has to."""
        batch = make_batch(self.engine, JOBS, name=name, batch_seed=self.chance.randrange(1000))
        change(self.engine, "UPDATE batches SET output = :output", output=self.output[0])
        return batch

    def _try(self, batch: Ingested, verb: object) -> None:
        try:
            verb(batch)  # type: ignore[operator]
        except ForeignOutputError:
            self.refused.add(batch.name)
        except UsageError:  # both export to one place
            if self.has_owners:
                raise

    def _render(self, batch: Ingested) -> None:
        (lane,) = lanes_of(self.engine, batch)
        jobs = take(self.engine, lane, JOBS)
        store = self._store()
        ownership.claim(self.engine, store, batch.id, batch.name)
        done = jobs[: len(jobs) * 3 // 4]
        transitions.complete(self.engine, [upload(store, batch.name, job) for job in done])
        for job in jobs[len(done) :]:
            upload(store, batch.name, job)  # and then its worker dies
        actions.cancel(self.engine, batch.id)

    def _sweep(self, batch: Ingested) -> None:
        for _ in sweep_batch(self.engine, self._store(), batch.id, older_than=timedelta(seconds=-5)):
            pass

    def _delete_files(self, batch: Ingested) -> None:
        """Only where it renders nothing, as a person would not delete what is wanted."""
        if batch.name in self.refused:
            drop_jobs_and_delete_batches.delete_files(
                self.engine, self._store(), actions.status(self.engine, batch.name)
            )

    def _export(self, batch: Ingested) -> None:
        store = self._store()
        ownership.claim(self.engine, store, batch.id, batch.name)
        status = actions.status(self.engine, batch.name)
        export(self.engine, ExportRequest([status], "jsonl", store, f"{batch.name}/export/"), lambda _: store)

    def _store(self) -> ObjectStore:
        return open_output(self.engine, *self.output)


@pytest.mark.parametrize("is_twin", [False, True], ids=["owned", "twin without owners"])
def test_both_keep_all_their_images(
    engine: Engine,
    another: Engine,
    output: tuple[str, S3Options],
    is_twin: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_twin:
        monkeypatch.setattr(ownership, "_require_ours", lambda *_: None)
    both = [
        Installation(own, output, seed, has_owners=not is_twin) for seed, own in enumerate((engine, another))
    ]
    with ThreadPoolExecutor(2) as threads:
        for lived in [threads.submit(own.live) for own in both]:
            lived.result()
    if not is_twin:
        assert sorted(batch.name for own in both for batch in own.owned) == sorted(NAMES), "one owner each"
    with pytest.raises(AssertionError, match="is missing") if is_twin else nullcontext():
        for own in both:
            for batch in own.owned:
                facts = check(own.engine, batch.name, s3=output[1])
                assert facts.states["done"] == JOBS * 3 // 4
