"""Exports of finished batches, and the feed, against COPY, pyarrow's bare writer, and `tar` of the same files."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import Engine

from bench.export.feed import measure_feed
from bench.export.make_finished_batch import finished_batch
from bench.harness.alternating_measurements import Samples, seconds, take_turns
from bench.harness.results import Figure, at_least, at_most
from bench.harness.services import Place, engine_on
from bench.image_files import grainy
from jobs.batches.actions import BatchStatus
from jobs.images.row_serialisation import copied
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_options import ExportOptions, GivenOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import Shard, exporter_of
from scheduler.export.parse_export_options import parse_export_options
from scheduler.export.read_image_rows import read_image_rows
from scheduler.export.rows.read_shard_rows_and_images import image_reader, sidecar_reader
from scheduler.export.run_export import export
from worker.imaging.png import encode_png

_ORDER = "i.batch_id = %s ORDER BY i.ordinal, i.index"
_COMMAND = """
import sys

class NoPandas:  # pyarrow imports it if it is there; nightmill alone doesn't install it
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPandas())
from console.entry_point import main
try:
    main()
finally:
    with open("/proc/self/status") as status:  # getrusage would count what the parent held before exec
        print(*[line.split()[1] for line in status if line.startswith("VmHWM")], file=sys.stderr)
"""


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure rows per second of the feed and into Parquet, its memory, and samples per second into WebDataset."""
    rows, images, rounds = (2_000, 50, 2) if is_quick else (200_000, 2_000, 3)
    with place.database("bench_export") as settings, engine_on(settings.database) as engine:
        output = place.folder / "exported"
        tables = _Exports(engine, finished_batch(engine, "rows", str(output), rows), output)
        found = _parquet(tables, rows, rounds) | {"parquet_memory_mb": _memory(settings, place, rows)}
        found |= measure_feed(engine, rows, rounds, tables.copy)
        file = encode_png(grainy(64 if is_quick else 512), PngInfo())
        pictures = _Exports(engine, finished_batch(engine, "images", str(output), images, file), output)
        return found | _webdataset(pictures, images, len(file), rounds)


def _parquet(exports: "_Exports", rows: int, rounds: int) -> dict[str, Figure]:
    table = exports.table()
    samples = take_turns(
        rounds,
        {
            "parquet": lambda: rows / exports.timed("parquet"),
            "copy": lambda: rows / seconds(exports.copy),
            "pyarrow": lambda: rows / seconds(lambda: exports.write_bare(table)),
        },
    )
    copy, bare = samples.median("copy"), samples.median("pyarrow")
    raw = f"COPY of the same {rows:,} rows as CSV to nowhere: {copy:,.0f}/s"
    return {
        "parquet_rows_per_s": Figure(samples.median("parquet"), "rows/s", raw, at_least(50_000)),
        "parquet_per_copy": Figure(samples.ratio("parquet", "copy"), "ratio", raw),
        "parquet_per_pyarrow": Figure(
            samples.ratio("parquet", "pyarrow"), "ratio", f"pyarrow's writer, rows in memory: {bare:,.0f}/s"
        ),
    }


def _webdataset(exports: "_Exports", images: int, size: int, rounds: int) -> dict[str, Figure]:
    with exports.members() as folder:
        samples: Samples = take_turns(
            rounds,
            {
                "written": lambda: images / exports.written("webdataset"),
                "stored": lambda: images / exports.timed("webdataset"),
                "tar": lambda: images / seconds(lambda: _tar(folder)),
            },
        )
    tar = f"GNU tar of the same members, {images:,} images of {size / 1e3:,.0f} kB: {samples.median('tar'):,.0f}/s"
    return {
        "webdataset_per_tar": Figure(samples.ratio("written", "tar"), "ratio", tar, at_least(0.5)),
        "webdataset_samples_per_s": Figure(samples.median("written"), "samples/s"),
        "webdataset_stored_per_tar": Figure(
            samples.ratio("stored", "tar"), "ratio", f"{tar}; with hashing, upload, sync and reading back"
        ),
    }


def _tar(folder: Path) -> None:
    archive = folder.with_suffix(".tar")
    subprocess.run(["tar", "--sort=name", "-cf", archive, "-C", folder, "."], check=True)
    archive.unlink()


def _memory(settings: Settings, place: Place, rows: int) -> Figure:
    """Run the command in a process of its own and return its peak resident memory."""
    target = place.folder / "measured"
    command = [sys.executable, "-c", _COMMAND, "export", "rows", "--to", str(target)]
    ended = subprocess.run(
        command,
        env=settings.environment(),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(target)
    peak = int(ended.stderr.split()[-1]) * 1024 / 1e6
    return Figure(peak, "MB", f"`nightmill export` of {rows:,} rows, the whole process", at_most(300))


@dataclass(frozen=True)
class _Exports:
    """Exports one batch repeatedly, each time to an empty folder, and does the same work by other means."""

    engine: Engine
    batch: BatchStatus
    output: Path

    def timed(self, format: str) -> float:
        """Export as the command does, and return the seconds."""
        target = self.output.parent / "target"
        options = parse_export_options(self.engine, [self.batch.id], format, GivenOptions())
        request = ExportRequest([self.batch], format, open_store(str(target), S3Options()), options=options)
        images = open_store(str(self.output), S3Options())
        took = seconds(lambda: export(self.engine, request, lambda _: images))
        shutil.rmtree(target)
        return took

    def written(self, format: str) -> float:
        """Make the files of a shard of all rows, with every image compared with its row; return the seconds."""
        target = self.output.parent / "written"
        target.mkdir()
        images = open_store(str(self.output), S3Options())
        read = image_reader(lambda: images)
        exporter = exporter_of(format)(ExportOptions())
        with self.engine.connect() as connection:
            shard = Shard(
                0, 1, read_image_rows(connection, self.batch.id), read, sidecar_reader(lambda: images)
            )
            took = seconds(lambda: exporter.write(target, shard))
        shutil.rmtree(target)
        return took

    def copy(self) -> None:
        """Let PostgreSQL send the rows."""
        with self.engine.connect() as connection, copied(connection, _ORDER, (self.batch.id,)) as chunks:
            for _ in chunks:
                pass

    def table(self) -> pa.Table:
        """Return the rows."""
        with self.engine.connect() as connection:
            return pa.Table.from_batches(list(read_image_rows(connection, self.batch.id)))

    def write_bare(self, table: pa.Table) -> None:
        """Write rows by pyarrow with the same compression."""
        path = self.output.parent / "bare.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=10_000)
        path.unlink()

    @contextmanager
    def members(self) -> Iterator[Path]:
        """Yield a folder with the members of the batch's WebDataset as files."""
        folder = self.output.parent / "members"
        folder.mkdir()
        target = self.output.parent / "unpacked"
        options = ExportOptions()
        request = ExportRequest(
            [self.batch], "webdataset", open_store(str(target), S3Options()), options=options
        )
        images = open_store(str(self.output), S3Options())
        export(self.engine, request, lambda _: images)
        for archive in target.glob("*.tar"):
            subprocess.run(["tar", "-xf", archive, "-C", folder, "--no-same-owner"], check=True)
        shutil.rmtree(target)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
