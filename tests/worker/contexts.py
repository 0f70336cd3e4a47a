"""A worker's context inside the test's own process: real queue, real models, real stores."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Engine

from jobs.job_dataclasses import Lane, LaneId
from jobs.manifest import open_source
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.parse_set_options import parse_policy
from jobs.process_lifecycle import SignalSafeEvent
from jobs.settings import Settings
from models.catalogue.catalogue import Catalogue
from scheduler.ingest.ingest import Ingested, ingest
from scheduler.ingest.rules_from_catalogue import Reading, row_rules
from scheduler.ingest.submit_request import SubmitRequest
from tests.factories import lanes_of, look
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.liveness.lease_keeper import LeaseKeeper
from worker.model_cache.cache import ModelCache
from worker.stage import StageContext

Rows = Sequence[Mapping[str, Any]]


@contextmanager
def worker_context_for(
    settings: Settings, engine: Engine, model_cache: ModelCache
) -> Iterator[WorkerContext]:
    """A worker process's context, whose leases are renewed until the end of the block."""
    leases = LeaseKeeper(engine, "tester", "cpu", settings.lease_s)
    leases.start()
    try:
        yield WorkerContext(settings, engine, leases, model_cache, SignalSafeEvent(), "tester")
    finally:
        leases.stop()


def submit(settings: Settings, engine: Engine, folder: Path, rows: Rows, **policy: str) -> Ingested:
    """Ingest rows by the rules of the settings' own catalogue; `policy` as `--set` takes it."""
    with engine.connect() as connection:
        number = len(connection.exec_driver_sql("SELECT 1 FROM batches").all())
    manifest = folder / f"batch-{number}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model, output = settings.default_model, policy.pop("output", settings.output)
    rules = row_rules(Catalogue.load(settings.models_path), model, Reading())
    with open_source(str(manifest)) as opened:
        order = SubmitRequest(opened, Reading(), parse_policy(policy), output, model, manifest.stem)
        return ingest(engine, order, rules)


def render(context: WorkerContext, folder: Path, rows: Rows, **policy: str) -> Ingested:
    """Submit the rows and run lane sessions until no job of theirs can be claimed."""
    batch = submit(context.settings, context.engine, folder, rows, **policy)
    while sum(work(context, lane) for lane in lanes_of(context.engine, batch)):
        pass
    return batch


def images_of(engine: Engine, batch: Ingested) -> list[dict[str, Any]]:
    """The batch's image rows in the order of its manifest."""
    return look(engine, 'SELECT * FROM images WHERE batch_id = :id ORDER BY ordinal, "index"', id=batch.id)


def jobs_of(engine: Engine, batch: Ingested) -> list[dict[str, Any]]:
    """The batch's jobs in the order of its manifest."""
    return look(engine, 'SELECT * FROM jobs WHERE batch_id = :id ORDER BY ordinal, "index"', id=batch.id)


def attempts_of(engine: Engine, batch: Ingested) -> list[dict[str, Any]]:
    """What is remembered of charged attempts that gave no image, oldest first."""
    statement = """
        SELECT attempts.* FROM attempts JOIN jobs ON jobs.id = job_id
        WHERE batch_id = :id AND outcome <> 'returned' ORDER BY attempts.id
    """
    return look(engine, statement, id=batch.id)


def only_lane(engine: Engine, batch: Ingested) -> LaneId:
    """The one lane of a batch."""
    (lane,) = lanes_of(engine, batch)
    return lane


def files_in(folder: Path) -> list[str]:
    """The paths of all files below a folder, sorted, but for those that say whose it is."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".nightmill-")
    )


class _LaneOfPolicy:
    """What stages that need no models ask of a lane."""

    def __init__(self, policy: BatchPolicy) -> None:
        self.policy = policy


def stage_context(settings: Settings, **policy: Any) -> StageContext:
    """What stages that need neither models nor a store work with, on a lane of this policy."""
    lane, nothing = cast("Lane", _LaneOfPolicy(BatchPolicy(parameters=False, **policy))), cast("Any", None)
    return StageContext(
        lane, nothing, nothing, settings, nothing, nothing, nothing, lambda _: None, installation=UUID(int=1)
    )
