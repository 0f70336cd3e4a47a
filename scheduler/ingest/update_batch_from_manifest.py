"""Bring a batch to a later version of its manifest: `run`, `submit` and `plan` with `--onto`."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.dialects.postgresql import insert

from jobs.batches import accepted_image_quotas
from jobs.batches.actions import status
from jobs.db import schema
from jobs.errors import UsageError
from jobs.exports.records import add_shards_of
from jobs.job_dataclasses import BatchId, LaneId
from jobs.manifest import LineCounts, RowRules, read_rows
from jobs.manifest.seeds import UnplacedSeeds
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import policy_of, sql_columns
from jobs.queue import update_jobs_from_manifest
from jobs.queue.sql_predicates import reopening
from jobs.queue.tenant_queue_limits import check_open_jobs
from jobs.queue.update_jobs_from_manifest import Difference
from jobs.states import SeedSource
from scheduler.ingest.bulk_insert import Load
from scheduler.ingest.choose_seed_source import UnfitIdsError
from scheduler.ingest.find_batch import CHOSEN, free_digest
from scheduler.ingest.ingest import TELL_EVERY, ManyJobsError, line_counts, strictly, used_circumstances
from scheduler.ingest.submit_request import SubmitRequest, slug

_BASE = text(f"""
    SELECT id, name, output, settings, manifest_sha256, archived_at, cancelled_at, {sql_columns()}
    FROM batches WHERE id = :batch
""")  # noqa: S608
# From here on nobody queues jobs of the batch again, archives it, or applies another manifest to it.
_LOCK = text("SELECT id FROM batches WHERE id = :batch FOR NO KEY UPDATE")
_STORE = text("""
    UPDATE batches SET manifest = :manifest, manifest_sha256 = :sha256, digest = :digest, rows = :rows,
        rejected = :rejected, jobs = jobs + :more, settings = CAST(:settings AS jsonb), lines = CAST(:lines AS jsonb)
    WHERE id = :batch
""")
_REOPEN = text(f"""
    WITH {reopening("SELECT lane_id FROM jobs WHERE batch_id = :batch AND state = 'queued'")} SELECT 1
""")  # noqa: S608


@dataclass(frozen=True)
class Base:
    """A batch to which a later manifest is to be applied, and how its own manifest was read."""

    id: BatchId
    name: str
    output: str
    settings: Mapping[str, Any]
    manifest_sha256: str
    policy: BatchPolicy


def find_base(engine: Engine, batch: str) -> Base:
    """Return a batch by name or number. Raises UsageError if there is none, or if it can't be changed."""
    found = status(engine, batch)
    with engine.connect() as connection:
        row = connection.execute(_BASE, {"batch": found.id}).one()
    if row.archived_at is not None:
        raise UsageError(
            f"batch {row.name} is archived, its jobs are gone: submit the manifest as another batch"
        )
    if row.cancelled_at is not None:
        raise UsageError(f"batch {row.name} was cancelled: `nightmill retry {row.name}` first")
    policy, _ = policy_of(row._mapping)
    given = type(policy).model_fields.keys() - set(row.settings.get(CHOSEN, ()))
    known = type(policy).model_construct(_fields_set=given, **dict(policy))
    return Base(found.id, row.name, row.output, row.settings, row.manifest_sha256, known)


class _StagedLoad(Load):
    """Loads a later manifest beside the jobs of its batch; creates the lanes that are new."""

    tables = "staged_jobs", "staged_rejects"

    def _insert_lane(self, values: dict[str, Any]) -> LaneId:
        """Return the batch's lane of this shape; locks none that is there, as workers need them meanwhile."""
        lanes = schema.lanes.c
        shape = [lanes.batch_id == self.batch, *(lanes[name] == value for name, value in values.items())]
        found = select(lanes.id).where(*shape)
        added = insert(schema.lanes).values(batch_id=self.batch, **values).on_conflict_do_nothing()
        for statement in (found, added.returning(lanes.id), found):
            lane: LaneId | None = self.connection.execute(statement).scalar_one_or_none()
            if lane is not None:
                return lane
        raise AssertionError

    def _store_counts(self) -> None:
        """Nothing is queued yet."""


@dataclass(frozen=True)
class Applied:
    """What a later manifest changed, or would change."""

    difference: Difference
    rows: int
    rejected: int
    lines: LineCounts


def apply_onto(
    engine: Engine,
    base: Base,
    request: SubmitRequest,
    rules: RowRules,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    keeps_dropped: bool = False,
    is_dry: bool = False,
    max_jobs: int | None = None,
) -> Applied:
    """Bring the batch to the request's manifest, in one transaction; nothing is changed if `is_dry`.

    Rows are matched by id. New ones get jobs; those of which anything differs that decides pixels are rendered again,
    after their images are taken back; those that are gone lose their jobs and images, unless `keeps_dropped`; where
    only columns of the user's own or the tenant differ, jobs and image rows are updated. Raises UsageError if rows have
    no ids of their own, and ManifestError as `ingest` does.
    """
    with _transaction(engine, is_dry=is_dry) as connection:
        _check_ids_of_batch(connection, base)
        load, lines = _stage(connection, base, request, rules, on_rows)
        connection.execute(_LOCK, {"batch": base.id})
        difference = update_jobs_from_manifest.compare(
            connection,
            base.id,
            load.seeds.offset,
            has_target=base.policy.target is not None,
            keeps_dropped=keeps_dropped,
        )
        is_known = request.manifest.sha256 == base.manifest_sha256
        if not (is_dry or (difference.is_empty and is_known)):
            if max_jobs is not None and difference.queued > max_jobs:
                raise ManyJobsError(f"{request.manifest.label}: queues {difference.queued:,} images")
            kept = difference.unchanged + difference.changed + difference.told + difference.new
            _apply(connection, base, request, load, lines, kept + load.rejected)
            if difference.queued:
                check_open_jobs(connection, base.id, request.manifest.label)
        return Applied(difference, load.rows, load.rejected, lines)


@contextmanager
def _transaction(engine: Engine, *, is_dry: bool) -> Iterator[Connection]:
    with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        if is_dry:
            transaction.rollback()


def _check_ids_of_batch(connection: Connection, base: Base) -> None:
    without, repeated = update_jobs_from_manifest.unmatchable_rows(connection, base.id)
    if without or repeated:
        raise UsageError(
            f"--onto {base.name}: rows are matched by their ids, and in that batch {without:,} rows have none, "
            f"{repeated:,} repeat another's"
        )


def _stage(
    connection: Connection,
    base: Base,
    request: SubmitRequest,
    rules: RowRules,
    on_rows: Callable[[int], None],
) -> tuple[Load, LineCounts]:
    update_jobs_from_manifest.stage(connection)
    lines = LineCounts()
    try:
        seeds = UnplacedSeeds(base.policy.batch_seed, SeedSource(base.policy.seed_from))
        with _StagedLoad(connection, base.id, seeds) as load:
            load.needs_ids = True
            items = read_rows(request.manifest, rules, lines)
            items = strictly(items, request) if request.reading.strict else items
            while load.add(islice(items, TELL_EVERY)):
                on_rows(load.rows)
    except UnfitIdsError as unfit:
        place = f"{request.manifest.label}, line {unfit.line}" if unfit.line else request.manifest.label
        raise UsageError(f"{place}: {unfit.problem}; --onto matches rows by their ids") from None
    return load, lines


def _apply(
    connection: Connection, base: Base, request: SubmitRequest, load: Load, lines: LineCounts, rows: int
) -> None:
    more = update_jobs_from_manifest.apply(connection, base.id)
    if base.policy.target is not None and accepted_image_quotas.fill_up(connection, base.id, is_later=True):
        connection.execute(_REOPEN, {"batch": base.id})
    counts = line_counts(request, load, lines)
    chosen = {CHOSEN: base.settings[CHOSEN]} if CHOSEN in base.settings else {}
    values = {
        "batch": base.id,
        "manifest": request.manifest.label,
        "sha256": request.manifest.sha256,
        "digest": free_digest(connection, _as_submitted(base, request), base.id, base.name),
        "rows": rows,
        "rejected": load.rejected,
        "more": more,
        "lines": json.dumps(counts) if rows == load.rows else None,  # not of rows that are kept
        "settings": json.dumps(asdict(request.reading) | chosen | used_circumstances(request, load)),
    }
    connection.execute(_STORE, values)
    add_shards_of(connection, base.id)


def _as_submitted(base: Base, request: SubmitRequest) -> SubmitRequest:
    """Return the request by which a submit of the manifest finds the batch: without a name where the file gives it."""
    name = None if slug(request.manifest.stem) == base.name else base.name
    return replace(request, name=name)
