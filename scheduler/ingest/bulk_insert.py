"""Bulk insert of a manifest into one batch: jobs and rejects by COPY, lanes and job counts by INSERT."""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, Self

from psycopg import Cursor
from sqlalchemy import Connection, insert, text, update

from jobs.db import schema
from jobs.job_dataclasses import BatchId, LaneId
from jobs.manifest import Reject, Row
from jobs.manifest.seeds import Seeds
from jobs.queue.update_jobs_from_manifest import JOB_COLUMNS
from jobs.states import SeedSource
from scheduler.ingest.choose_seed_source import refuse_unfit_ids
from scheduler.ingest.copy_format import NULL, CopyStream, cell, cells, to_json
from scheduler.ingest.duplicate_detection import Repeated, Repeats

_REJECT_COLUMNS = 'batch_id, ordinal, line, "column", reason, excerpt'
_WAITING_REJECTS = 5_000
_KINDS = 2_000
_LANE = ("tenant", "model", "mode", "lora", "width", "height", "upscale")


_REPEATED_IDS = text("""
    SELECT count(row_id) - count(DISTINCT row_id) FROM jobs WHERE batch_id = :batch AND "index" = 0
""")


class Load:
    """Adds rows to a batch over one connection, which can execute nothing else until the block ends.

    Raises UnfitIdsError if seeds are to be derived from ids, and a row has none or one that is repeated.
    """

    tables: ClassVar[tuple[str, str]] = ("jobs", "rejects")

    def __init__(self, connection: Connection, batch: BatchId, seeds: Seeds) -> None:
        cursor: Cursor[Any] = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
        self.connection = connection
        self.batch = batch
        self.seeds = seeds
        self.needs_ids = seeds.source == SeedSource.ID
        self.rows = self.rejected = 0
        self.has_pictures = self.has_default_model = False
        self._lanes: dict[tuple[Any, ...], LaneId] = {}
        self._kinds: dict[tuple[Any, ...], tuple[LaneId, str]] = {}
        self._queued: Counter[LaneId] = Counter()
        self._jobs = CopyStream(cursor, self.tables[0], JOB_COLUMNS)
        self._rejects = CopyStream(cursor, self.tables[1], _REJECT_COLUMNS)
        self._waiting: list[Reject] = []
        self._ids = Repeats()

    @property
    def jobs(self) -> int:
        """The number of jobs added so far."""
        return self._queued.total()

    def add(self, items: Iterable[Row | Reject]) -> int:
        """Append rows' jobs, and rejects, to their tables; returns the number of items."""
        before = self.rows
        for item in items:
            self.rows += 1
            if isinstance(item, Row):
                self._add_row(item)
            else:
                self._add_reject(item)
        return self.rows - before

    def __enter__(self) -> Self:
        self._jobs.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.__exit__(kind, error, trace)
        if error is None:
            self._store_rejects()
            self._store_counts()
            if self.needs_ids:
                refuse_unfit_ids(None, self.repeated_ids)

    def _add_row(self, row: Row) -> None:
        if row.id is None and self.needs_ids:
            refuse_unfit_ids(row.line, Repeated())
        self.has_default_model |= row.has_default_model
        kind = (
            row.tenant,
            row.model,
            row.mode,
            row.lora,
            row.width,
            row.height,
            row.upscale,
            row.steps,
            row.guidance_scale,
            row.sampler,
            row.noise_level,
            row.strength,
        )
        lane, shared = self._kinds.get(kind) or self._kind(row, kind)
        pictures = "" if row.mode == "text2image" else _pictures(row)
        texts = row.prompt, row.negative_prompt, to_json(row.meta)
        named = f"{NULL}\t{cells(*texts)}" if row.id is None else cells(row.id, *texts)
        rest = f"{row.ordinal}\t{shared}\t{pictures}{named}\n"
        if row.num_images == 1:
            self._jobs.add(f"0\t{self.seeds.first(row)}\t{rest}")
        else:
            for index, seed in enumerate(self.seeds.of(row)):
                self._jobs.add(f"{index}\t{seed}\t{rest}")
        self._queued[lane] += row.num_images
        if row.id is not None:
            self._ids.add(row.id, row.line)

    @cached_property
    def repeated_ids(self) -> Repeated:
        """The rows whose id occurs in an earlier row; after so many that not all are in memory, without lines."""
        found = self._ids.found()
        if found.number or not self._ids.is_full:
            return found
        return Repeated(self.connection.execute(_REPEATED_IDS, {"batch": self.batch}).scalar_one())

    def _add_reject(self, reject: Reject) -> None:
        self.rejected += 1
        self._waiting.append(reject)
        if len(self._waiting) >= _WAITING_REJECTS:
            self._store_rejects()

    def _kind(self, row: Row, kind: tuple[Any, ...]) -> tuple[LaneId, str]:
        """Return the lane for rows like this one, and the COPY cells that all of them share."""
        self.has_pictures |= row.mode != "text2image"
        shape = row.tenant or "", row.model, row.mode, row.lora, row.width, row.height, row.upscale
        lane = self._lanes.get(shape) or self._lane(shape)
        noise_level = NULL if row.noise_level is None else row.noise_level
        strength = NULL if row.strength is None else row.strength
        if len(self._kinds) >= _KINDS:
            self._kinds.clear()
        options = f"{row.steps}\t{row.guidance_scale}\t{row.sampler}\t{noise_level}\t{strength}"
        shared = f"{self.batch}\t{lane}\t{options}\t{cell(row.tenant)}"
        if row.mode == "text2image":
            shared = f"{shared}\t{NULL}\t{NULL}\t{NULL}"
        self._kinds[kind] = lane, shared
        return lane, shared

    def _lane(self, shape: tuple[Any, ...]) -> LaneId:
        self._jobs.finish()
        values = dict(zip(_LANE, shape, strict=True))
        lane = self._insert_lane(values)
        self._lanes[shape] = lane
        return lane

    def _insert_lane(self, values: dict[str, Any]) -> LaneId:
        statement = insert(schema.lanes).values(batch_id=self.batch, **values).returning(schema.lanes.c.id)
        lane: LaneId = self.connection.execute(statement).scalar_one()
        return lane

    def _store_rejects(self) -> None:
        self._jobs.finish()
        with self._rejects:
            for reject in self._waiting:
                place = f"{self.batch}\t{reject.ordinal}\t{reject.line}\t{cell(reject.column)}"
                self._rejects.add(f"{place}\t{cell(reject.reason)}\t{cell(reject.excerpt)}\n")
        self._waiting.clear()

    def _store_counts(self) -> None:
        counts = {"rows": self.rows, "rejected": self.rejected, "jobs": self.jobs}
        batches = schema.batches
        self.connection.execute(update(batches).where(batches.c.id == self.batch).values(**counts))
        job_counts = [
            {"batch_id": self.batch, "lane_id": lane, "state": "queued", "delta": count}
            for lane, count in self._queued.items()
        ]
        if job_counts:
            self.connection.execute(insert(schema.job_counts), job_counts)


def _pictures(row: Row) -> str:
    return f"{cell(row.init_image)}\t{cell(row.mask_image)}\t{cell(row.depth_image)}\t"
