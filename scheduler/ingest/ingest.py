"""Ingest: stores a manifest's rows as jobs, by COPY, in one transaction, exactly once.

A batch is identified by the digest of the manifest's bytes and of the options that affect pixels or where they are
stored, so that repeating a submit finds the same batch. An interrupted submit leaves nothing.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.dialects.postgresql import insert

from jobs.batches import accepted_image_quotas
from jobs.db import schema
from jobs.db.engine import database_time
from jobs.errors import ManifestError, UsageError
from jobs.job_dataclasses import BatchId
from jobs.manifest import LineCounts, ManifestFile, Reject, RowRules, read_rows
from jobs.manifest import Row as ManifestRow
from jobs.manifest.seeds import Seeds
from jobs.policy.stored_policy import row_of
from jobs.policy.time_windows import span
from jobs.queue import canary_rollout
from jobs.queue.tenant_queue_limits import QueueLimit, check_open_jobs, queue_limits
from jobs.queue.update_jobs_from_manifest import Difference
from jobs.states import SeedSource
from jobs.suggest_names_and_shorten_lists import some_of
from scheduler.ingest.bulk_insert import Load
from scheduler.ingest.choose_seed_source import UnfitIdsError, possible_sources
from scheduler.ingest.duplicate_detection import Repeated
from scheduler.ingest.find_batch import CHOSEN, digest_and_batch, find_batch
from scheduler.ingest.submit_request import FOLDER, MODEL, SubmitRequest

TELL_EVERY = 1_000


@dataclass(frozen=True)
class Ingested:
    """The batch of a request, newly made or found."""

    id: BatchId
    name: str
    is_new: bool
    rows: int
    rejected: int
    jobs: int
    batch_seed: int = 0
    seed_from: SeedSource = SeedSource.ROW
    repeated_ids: int = 0
    lines: LineCounts | None = None
    difference: Difference | None = None
    """What a later manifest has changed of a batch that was there."""
    first_name: str | None = None
    """Before it was renamed; None if it wasn't."""

    @property
    def folder(self) -> str:
        """Where the batch's files are below the output."""
        return self.first_name or self.name


class ManyJobsError(UsageError):
    """The manifest makes more jobs than its user may have intended; nothing was stored."""


class RejectedRowError(ManifestError):
    """A row can't be used, and the manifest is read strictly; nothing was stored. `reject` says why."""

    def __init__(self, reject: Reject, label: str) -> None:
        super().__init__(f"{describe(reject, label)}; nothing was ingested (--strict)")
        self.reject = reject


def ingest(
    engine: Engine,
    request: SubmitRequest,
    rules: RowRules,
    on_rows: Callable[[int], None] = lambda _: None,
    max_jobs: int | None = None,
    on_batch: Callable[[Ingested], None] = lambda _: None,
) -> Ingested:
    """Store the request's rows as queued jobs; if the batch exists already, return it.

    `on_rows` is called with the number of rows read so far, `on_batch` with the batch before its first row, when
    raising still rolls everything back. Raises ManifestError if the file is damaged, or, when strict, at the first row
    that can't be used; then nothing is stored. Raises UsageError if the name is taken, and ManyJobsError if there would
    be over `max_jobs` jobs; for a recipe, before any row is made. Raises TooManyOpenJobsError if a tenant would have
    more open jobs than it may.
    """
    with engine.begin() as connection:
        found = find_batch(connection, request)
        batch = _ingested(found) if found else _create(connection, request)
        on_batch(batch)
        if not batch.is_new:
            _check_strictly(batch, request)
            return batch
        _check_rows(request.manifest, max_jobs)
        load, lines = _load(connection, batch, request, rules, on_rows, max_jobs)
        again = load.repeated_ids
        if request.reading.unique_ids:
            refuse_repeated(again, request.manifest.label)
        _note(connection, batch.id, request, load, lines)
        added = _fill_up(connection, batch.id, request, load.jobs, max_jobs) if request.policy.target else 0
        if request.policy.canary:
            canary_rollout.send_ahead(connection, batch.id)
        check_open_jobs(connection, batch.id, request.manifest.label)
        return replace(
            batch,
            rows=load.rows,
            rejected=load.rejected,
            jobs=load.jobs + added,
            seed_from=load.seeds.source,
            repeated_ids=again.number,
            lines=lines,
        )


def _load(
    connection: Connection,
    batch: Ingested,
    request: SubmitRequest,
    rules: RowRules,
    on_rows: Callable[[int], None],
    max_jobs: int | None,
) -> tuple[Load, LineCounts]:
    """Load the manifest; with seeds by id first, and anew by row where its ids are found not to be fit for that."""
    sources, limits = possible_sources(request), queue_limits(connection)
    for source in sources:
        lines = LineCounts()
        try:
            with (
                connection.begin_nested(),
                Load(connection, batch.id, Seeds(request.batch_seed, source)) as load,
            ):
                items = read_rows(request.manifest, rules, lines)
                items = strictly(items, request) if request.reading.strict else items
                items = items if max_jobs is None else _few(items, request.manifest.label, max_jobs)
                items = within_limits(items, request.manifest.label, limits) if limits else items
                while load.add(islice(items, TELL_EVERY)):
                    on_rows(load.rows)
            return load, lines
        except UnfitIdsError as unfit:
            if source == sources[-1]:
                raise unfit.explained(request.manifest.label) from None
    raise AssertionError


def _fill_up(
    connection: Connection, batch: BatchId, request: SubmitRequest, jobs: int, max_jobs: int | None
) -> int:
    """Repeat rows until each value reaches the target; ManyJobsError if that makes too many jobs."""
    if request.policy.target_per is not None and jobs:
        accepted_image_quotas.check_target_per(connection, batch, request.policy.target_per)
    if max_jobs is not None and (many := jobs + accepted_image_quotas.missing(connection, batch)) > max_jobs:
        raise ManyJobsError(f"{request.manifest.label}: makes {many:,} images to reach its target")
    return accepted_image_quotas.fill_up(connection, batch)


def _check_rows(manifest: ManifestFile, max_jobs: int | None) -> None:
    """Raise ManyJobsError by a recipe's number of rows, which is known without reading them."""
    if max_jobs is not None and (manifest.rows or 0) > max_jobs:
        raise ManyJobsError(f"{manifest.label}: makes {manifest.rows:,} rows, each of one image or more")


def _few(items: Iterator[ManifestRow | Reject], label: str, max_jobs: int) -> Iterator[ManifestRow | Reject]:
    jobs = 0
    for item in items:
        if isinstance(item, ManifestRow):
            jobs += item.num_images
            if jobs > max_jobs:
                raise ManyJobsError(
                    f"{label}: makes {jobs:,} images up to line {item.line}, and isn't read further"
                )
        yield item


def within_limits(
    items: Iterator[ManifestRow | Reject], label: str, limits: Mapping[str, QueueLimit]
) -> Iterator[ManifestRow | Reject]:
    """Pass on rows; TooManyOpenJobsError at the first one with which a tenant has more open jobs than it may."""
    jobs = Counter[str]()
    for item in items:
        if isinstance(item, ManifestRow) and item.tenant is not None and item.tenant in limits:
            jobs[item.tenant] += item.num_images
            limits[item.tenant].check(item.tenant, jobs[item.tenant], f"{label}, line {item.line}")
        yield item


def strictly(items: Iterator[ManifestRow | Reject], request: SubmitRequest) -> Iterator[ManifestRow | Reject]:
    """Pass on rows; RejectedRowError at the first reject."""
    for item in items:
        if isinstance(item, Reject):
            raise RejectedRowError(item, request.manifest.label)
        yield item


def _check_strictly(batch: Ingested, request: SubmitRequest) -> None:
    if request.reading.strict and batch.rejected:
        raise ManifestError(
            f"{request.manifest.label} is batch {batch.name} already, of which {batch.rejected:,} rows were rejected: "
            f"`nightmill rejects {batch.name}` says why (--strict)"
        )


def refuse_repeated(again: Repeated, label: str) -> None:
    """Raise ManifestError for ids that occur on earlier lines."""
    if again.number:
        shown = f", lines {some_of(again.lines, 10)}" if again.lines else ""
        raise ManifestError(
            f"{label}: {again.number:,} ids are repeated{shown}; nothing was ingested (--unique-ids)."
        )


def describe(reject: Reject, label: str) -> str:
    """Return a rejected row in one line: file, line, column, reason."""
    column = f", column {reject.column}" if reject.column else ""
    return f"{label}, line {reject.line}{column}: {reject.reason}"


def _ingested(row: Row[Any]) -> Ingested:
    return Ingested(
        row.id,
        row.name,
        False,
        row.rows,
        row.rejected,
        row.jobs,
        row.policy.get("batch_seed", 0),
        SeedSource(row.seed_from),
        first_name=row.folder,
    )


def _note(
    connection: Connection, batch: BatchId, request: SubmitRequest, load: Load, lines: LineCounts
) -> None:
    """Store the source of the seeds, the circumstances that the rows depend on, and the counts of lines."""
    statement = text("""
        UPDATE batches SET settings = settings || CAST(:more AS jsonb), seed_from = :source,
            lines = CAST(:lines AS jsonb)
        WHERE id = :id""")
    values = {
        "more": json.dumps(used_circumstances(request, load)),
        "source": load.seeds.source,
        "lines": json.dumps(line_counts(request, load, lines)),
    }
    connection.execute(statement, {"id": batch, **values})


def used_circumstances(request: SubmitRequest, load: Load) -> dict[str, str]:
    """Return the circumstances that the rows depend on, as the batch's settings keep them."""
    is_used = {FOLDER: load.has_pictures, MODEL: load.has_default_model}
    return {key: value for key, value in request.circumstances.items() if is_used[key]}


def line_counts(request: SubmitRequest, load: Load, lines: LineCounts) -> dict[str, Any]:
    """Return what became of the manifest's lines, and of which manifest, as the batch keeps it."""
    counted = lines.report(load.rows - load.rejected, load.rejected)
    return counted | {"manifest_sha256": request.manifest.sha256}


def _create(connection: Connection, request: SubmitRequest) -> Ingested:
    """Create an empty batch; if another process is creating the same one, wait for it and return that."""
    digest, _ = digest_and_batch(connection, request)
    wanted = request.wanted_name
    for name in [wanted] if request.name else [wanted, f"{wanted[:90]}-{digest[:8]}"]:
        values = _batch_values(request, database_time(connection)) | {"name": name, "digest": digest}
        statement = (
            insert(schema.batches).values(values).on_conflict_do_nothing().returning(schema.batches.c.id)
        )
        batch = connection.execute(statement).scalar_one_or_none()
        if batch is not None:
            return Ingested(batch, name, True, 0, 0, 0, request.batch_seed)
        if found := find_batch(connection, request):
            return _ingested(found)
    raise UsageError(
        f"the name {wanted!r} belongs to a batch of another manifest or other settings; choose another --name"
    )


def _batch_values(request: SubmitRequest, now: datetime) -> dict[str, Any]:
    opens_at, closes_at = span(request.policy.window, now)
    return {
        "opens_at": opens_at,
        "closes_at": closes_at,
        "manifest": request.manifest.label,
        "manifest_sha256": request.manifest.sha256,
        "settings": asdict(request.reading) | {CHOSEN: request.policy.chosen()},
        "output": request.output,
        **row_of(request.policy.model_copy(update={"batch_seed": request.batch_seed})),
    }
