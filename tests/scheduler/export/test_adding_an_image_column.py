"""A column of image rows is added in one place: statements, feed, exports and the reference follow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_request import ExportRequest
from scheduler.export.run_export import export
from tests.factories import change, look, make_batch
from tests.scheduler.export.datasets import with_pictures
from tests.source_overlay import overlay

BEFORE = '    CheckConstraint("length(sha256) = 64", "sha256"),\n'
COLUMNS = """
    image_column("grain", SmallInteger, Source.WORKER, "of the film"),
    image_column("palette", JSONB, Source.WORKER, "its colours"),
    image_column("lane_id", BigInteger, "l.id", "where it was made"),
"""
PROGRAM = """
import json, sys
from pathlib import Path
from jobs.db.engine import connect
from jobs.feed.feed import read
from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Shard, exporter_of
from scheduler.export.read_image_rows import read_image_rows
from tests.factories import await_feed, image, take
from tests.image_rows_page import page
import pyarrow.parquet as pq
from jobs.queue import transitions

engine = connect(sys.argv[1])
first, second = take(engine, 1)
transitions.complete(engine, [image(first, more={"grain": 3, "palette": ["red"]}), image(second)])
await_feed(engine)
fed = [{name: row[name] for name in ("grain", "palette", "lane_id")} for row in read(engine)]
with engine.connect() as connection:
    exporter_of("parquet")(ExportOptions()).write(Path(), Shard(0, 1, read_image_rows(connection, 1), iter, iter))
table = pq.read_table("part-00000.parquet").select(["grain", "palette", "lane_id"])
lines = [line for line in page().splitlines() if "grain" in line]
print(json.dumps({"fed": fed, "rows": table.to_pylist(), "types": [str(t) for t in table.schema.types], "page": lines}))
"""

GO_ON = """
import json, sys
from jobs.batches import actions
from jobs.db.engine import connect
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_request import ExportRequest
from scheduler.export.run_export import export

engine, store = connect(sys.argv[1]), open_store(sys.argv[2], S3Options())
batch = actions.status(engine, "foxes")
done = export(engine, ExportRequest([batch], "parquet", store), lambda _: open_store(batch.output, S3Options()))
print(json.dumps([done.further_columns, done.is_complete, [file["sha256"] for file in done.files]]))
"""


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """A nightmill whose table of image rows has three columns more."""
    return overlay(tmp_path / "patched", "jobs/db/images_table.py", BEFORE, COLUMNS + BEFORE)


def test_a_new_column_is_stored_fed_exported_and_told(
    patched: Path, engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    make_batch(engine, 2)
    change(engine, "ALTER TABLE images ADD grain smallint, ADD palette jsonb, ADD lane_id bigint")
    command = [sys.executable, "-P", "-c", PROGRAM, settings.database]
    environment = os.environ | {"PYTHONPATH": str(patched)}
    told = json.loads(
        subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
    )
    stored = [
        {"grain": 3, "palette": ["red"], "lane_id": 1},
        {"grain": None, "palette": None, "lane_id": 1},
    ]
    assert look(engine, "SELECT grain, palette, lane_id FROM images ORDER BY id") == stored
    assert told["fed"] == stored
    assert told["rows"] == [stored[0] | {"palette": '["red"]'}, stored[1]]
    assert told["types"] == ["int16", "string", "int64"]
    assert told["page"] == ["| `grain` | smallint | of the film |"]


def test_an_export_goes_on_without_a_new_column(
    patched: Path, engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    batch = with_pictures(engine, tmp_path / "output", 2, name="foxes")
    store, images = open_store(str(tmp_path / "set"), S3Options()), open_store(batch.output, S3Options())
    done = export(engine, ExportRequest([batch], "parquet", store), lambda _: images)
    change(engine, "ALTER TABLE images ADD grain smallint, ADD palette jsonb, ADD lane_id bigint")
    change(engine, "UPDATE export_shards SET generation = generation + 1")
    command = [sys.executable, "-P", "-c", GO_ON, settings.database, store.uri]
    environment = os.environ | {"PYTHONPATH": str(patched)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    digests = [file["sha256"] for file in done.files]
    assert json.loads(ended.stdout) == [["grain", "palette", "lane_id"], True, digests]
