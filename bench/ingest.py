"""`ingest`: loading a manifest into the job table, compared with PostgreSQL's own COPY of the same rows."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import Cursor
from sqlalchemy import Connection, Engine, text

from bench.harness.alternating_measurements import Samples, seconds, take_turns
from bench.harness.peak_memory import watch_memory
from bench.harness.results import Figure, at_least, at_most
from bench.harness.services import Place, engine_on, settle
from bench.manifests import write_manifest
from jobs.manifest import RowRules, open_source, read_rows
from jobs.policy.parse_set_options import parse_policy
from jobs.queue.update_jobs_from_manifest import JOB_COLUMNS
from models.catalogue.catalogue import Catalogue
from scheduler.ingest.ingest import ingest
from scheduler.ingest.rules_from_catalogue import Reading, row_rules
from scheduler.ingest.submit_request import SubmitRequest

MODEL = "tiny-random"


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure JSONL rows per second: ingested, only read, and copied raw; and the memory for a larger manifest."""
    rows, many = (3_000, 3_000) if is_quick else (300_000, 1_000_000)
    path = write_manifest(place.folder / "manifest.jsonl", rows)
    rules = row_rules(Catalogue.load(place.folder / "models"), MODEL, Reading())
    with place.database("bench_ingest") as settings, engine_on(settings.database) as engine:
        intake = _Intake(engine, path, rules)
        memory = intake.memory(write_manifest(place.folder / "large.jsonl", many))
        jobs = intake.ingest()
        raw = _RawCopy(engine, intake.copied())
        measurements = {
            "ingest": lambda: rows / intake.timed(),
            "copy": lambda: jobs / raw.timed(),
            "read": lambda: rows / seconds(intake.read),
            "json": lambda: rows / seconds(lambda: _parse(path)),
        }
        samples = take_turns(2 if is_quick else 5, measurements)
    return {**_figures(samples, rows), "memory_mb": memory}


def _figures(samples: Samples, rows: int) -> dict[str, Figure]:
    copy, parse = samples.median("copy"), samples.median("json")
    raw = f"raw COPY of the same {rows:,} rows into the same table: {copy:,.0f}/s"
    parsed = f"json.loads of the same lines: {parse:,.0f}/s"
    return {
        "ingest_per_copy": Figure(samples.ratio("ingest", "copy"), "ratio", raw, at_least(0.5)),
        "ingest_rows_per_s": Figure(samples.median("ingest"), "rows/s"),
        "read_per_json": Figure(samples.ratio("read", "json"), "ratio", parsed),
        "read_rows_per_s": Figure(samples.median("read"), "rows/s"),
    }


@dataclass
class _Intake:
    """Ingests one manifest repeatedly, each time as a new batch into an empty table."""

    engine: Engine
    path: Path
    rules: RowRules
    batches: int = 0

    def timed(self) -> float:
        _empty(self.engine, "jobs, rejects")
        return seconds(self.ingest)

    def memory(self, large: Path) -> Figure:
        """Measure this process's growth while it ingests a manifest, which is deleted with its jobs."""
        with watch_memory() as growth:
            jobs = self.ingest(large)
        what = f"a manifest of {large.stat().st_size / 1e6:,.1f} MB, {jobs:,} jobs, read as a stream"
        large.unlink()
        _empty(self.engine, "jobs, rejects")
        return Figure(growth.megabytes, "MB", what, at_most(64))

    def ingest(self, path: Path | None = None) -> int:
        """Ingest as a submit does (digest of the file, validation, COPY, commit); returns the number of jobs."""
        with open_source(str(path or self.path)) as manifest:
            self.batches += 1
            request = SubmitRequest(
                manifest, Reading(), parse_policy({}), "output", MODEL, name=f"batch-{self.batches}"
            )
            return ingest(self.engine, request, self.rules).jobs

    def read(self) -> None:
        """Read and validate every row, and keep none."""
        with open_source(str(self.path)) as manifest:
            for _ in read_rows(manifest, self.rules):
                pass

    def copied(self) -> list[bytes]:
        """Return the COPY data of the jobs that are in the table now."""
        statement = f"COPY jobs ({JOB_COLUMNS}) TO STDOUT"
        with self.engine.connect() as connection, _cursor(connection).copy(statement) as copy:
            return [bytes(block) for block in copy]


class _RawCopy:
    """COPY of formatted rows into a table with the columns, checks and indexes of `jobs`."""

    def __init__(self, engine: Engine, lines: Sequence[bytes]) -> None:
        self.engine = engine
        self.blocks = [b"".join(lines[start : start + 1000]) for start in range(0, len(lines), 1000)]
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE raw_jobs (LIKE jobs INCLUDING ALL)"))

    def timed(self) -> float:
        _empty(self.engine, "raw_jobs")
        return seconds(self.copy)

    def copy(self) -> None:
        statement = f"COPY raw_jobs ({JOB_COLUMNS}) FROM STDIN"
        with self.engine.begin() as connection, _cursor(connection).copy(statement) as copy:
            for block in self.blocks:
                copy.write(block)


def _cursor(connection: Connection) -> Cursor[Any]:
    cursor: Cursor[Any] = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
    return cursor


def _empty(engine: Engine, tables: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables}"))
    settle(engine)
    gc.collect()


def _parse(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        for line in file:
            json.loads(line)
