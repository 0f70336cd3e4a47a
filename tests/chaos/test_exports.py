"""Writers of an export are killed by SIGKILL while jobs end in any order and images are rendered again."""

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.exports import records
from jobs.exports.records import Export
from jobs.queue import transitions
from scheduler.ingest.ingest import Ingested
from tests.chaos.scale import scaled
from tests.end_to_end.processes import until
from tests.factories import image, lanes_of, look, make_batch, take

ROWS = scaled(200, 2000)
SECONDS = scaled(6.0, 60.0)
LONGEST_S = 0.8
AGAIN = 0.4


class Renderer:
    """Completes the jobs of a batch, more or less in order, and takes images back to render them again."""

    def __init__(self, engine: Engine, batch: Ingested) -> None:
        self.engine, self.batch, self.chance = engine, batch, random.Random(3)
        self.number = 0

    def work(self) -> None:
        """The last image is not rendered: the export is open to the end."""
        (lane,) = lanes_of(self.engine, self.batch)
        jobs = take(self.engine, lane, ROWS, lease_s=600)
        jobs.sort(key=lambda job: -job.ordinal + 30 * self.chance.random())
        ended = time.monotonic() + SECONDS
        pause = SECONDS / (ROWS * (1 + AGAIN)) / 2
        while jobs[1:]:
            self._complete(jobs.pop())
            if self.chance.random() < AGAIN:
                jobs += self._take_back(lane)
            time.sleep(pause if time.monotonic() < ended else 0)
        until(
            lambda: self._has_new_version(lane), scaled(60, 600)
        )  # on a slow machine, nothing was sealed so far
        self._complete(jobs.pop())

    def _has_new_version(self, lane: Any) -> bool:
        for job in self._take_back(lane):
            self._complete(job)
        return bool(look(self.engine, "SELECT FROM export_shards WHERE version > 1"))

    def _complete(self, job: Any) -> None:
        self.number += 1
        digest = hashlib.sha256(str(self.number).encode()).hexdigest()
        transitions.complete(self.engine, [image(job, sha256=digest)])

    def _take_back(self, lane: Any) -> list[Any]:
        rows = look(self.engine, "SELECT id, key FROM images ORDER BY random() LIMIT 1")
        transitions.render_again(
            self.engine, self.batch.id, [(row["id"], row["key"]) for row in rows], "missing"
        )
        return take(self.engine, lane, 1, lease_s=600)


class Reader:
    """Reads all files of an export again and again: each is whole, and one of those that were named."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.torn, self.reads = folder, list[str](), 0
        self._ended = threading.Event()

    @contextmanager
    def reading(self) -> Iterator[None]:
        thread = threading.Thread(target=self._read)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _read(self) -> None:
        while not self._ended.wait(0.02):
            for path in self.folder.glob("part-*.jsonl"):
                body = path.read_bytes()
                self.reads += 1
                if body and not body.endswith(b"}\n"):
                    self.torn.append(path.name)


@contextmanager
def writers(engine: Engine, batch: Ingested, folder: Path) -> Iterator[None]:
    """Writers in processes of their own, which are left alone, to finish, when the block has ended."""
    command = [
        "-m",
        "tests.chaos.exporter",
        engine.url.render_as_string(hide_password=False),
        batch.name,
        str(folder),
        str(LONGEST_S),
    ]
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            yield
            kills, _ = parent.communicate(timeout=scaled(60, 600))
            assert parent.returncode == 0
            assert int(kills) > 5
        finally:
            parent.kill()


def differences(engine: Engine, export: Export, folder: Path) -> list[str]:
    """What is wrong with a complete export."""
    shards = records.shards_of(engine, export.id)
    wrong = [f"shard {shard.number} isn't sealed" for shard in shards if not shard.is_current]
    index = [file for found in records.exports_of(engine) if found.id == export.id for file in found.files]
    named = {file["name"]: file["sha256"] for file in [*(f for shard in shards for f in shard.files), *index]}
    there = {path.name: path.read_bytes() for path in folder.glob("[!_~]*")}  # but writes that were cut off
    wrong += [f"{path.name} is left" for path in folder.glob("_[!S]*")]
    if there.keys() != named.keys():
        wrong.append(f"{sorted(there)} are there, {sorted(named)} are named")
    wrong += [
        f"{name} differs"
        for name, body in there.items()
        if hashlib.sha256(body).hexdigest() != named.get(name)
    ]
    parts = [there[name] for name in sorted(there) if name.startswith("part-")]
    rows = [json.loads(line)["image_id"] for part in parts for line in part.splitlines()]
    if rows != [row["id"] for row in look(engine, "SELECT id FROM images ORDER BY ordinal")]:
        wrong.append("the rows are not those of the table")
    success = json.loads((folder / "_SUCCESS").read_text())
    if {file["name"]: file["sha256"] for file in success["files"]} != named or not success["complete"]:
        wrong.append("_SUCCESS tells of others")
    return wrong


@pytest.mark.timeout(scaled(300, 900))
def test_no_shard_is_torn_missing_or_out_of_date(engine: Engine, tmp_path: Path) -> None:
    batch = make_batch(engine, ROWS)
    folder, renderer = tmp_path / "out", Renderer(engine, batch)
    reader = Reader(folder)
    with reader.reading(), writers(engine, batch, folder):
        renderer.work()
    (export,) = records.exports_of(engine)
    assert differences(engine, export, folder) == []
    assert (reader.torn, reader.reads > 0) == ([], True)
