"""Webhooks are told of each shard that is sealed, once for each version of its files."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.db.engine import transact
from jobs.exports.mark_outdated_shards import mark_shard
from jobs.exports.records import exports_of
from jobs.storage.open import S3Options, open_store
from jobs.webhooks import registry
from tests.factories import change, look, make_batch
from tests.scheduler.export.test_export import export, finished, shards_of_rows


def test_shards_are_told_when_they_are_sealed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_of_rows(monkeypatch, 2)
    registry.add(engine, "https://receiver.example/", ["shard.sealed"], allows_private=False)
    batch = finished(engine, 3, name="night")
    store = open_store(str(tmp_path), S3Options())
    for _ in range(2):
        export(engine, batch, "jsonl", store, "out/")
    messages = told(engine)
    assert [(each["shard"], each["version"], each["images"]) for each in messages] == [(0, 1, 2), (1, 1, 1)]
    (file,) = messages[1].pop("files")
    assert file["name"] == "part-00001.jsonl"
    assert messages[1].pop("cursor")
    assert messages[1] == {
        "batch": batch.id,
        "export": 1,
        "dataset": "night",
        "format": "jsonl",
        "shard": 1,
        "version": 1,
        "images": 1,
        "place": f"{tmp_path}/out/",
    }
    change(engine, "UPDATE images SET device = 'cuda' WHERE ordinal = 2")
    (made,) = exports_of(engine)
    transact(engine, lambda connection: mark_shard(connection, made.id, 1))
    export(engine, batch, "jsonl", store, "out/")
    assert [(each["shard"], each["version"]) for each in told(engine)][2:] == [(1, 2)]


def test_a_shard_with_unfinished_jobs_is_not_sealed(engine: Engine, tmp_path: Path) -> None:
    registry.add(engine, "https://receiver.example/", None, allows_private=False)
    make_batch(engine, 2, name="night")
    export(engine, actions.status(engine, "night"), "jsonl", open_store(str(tmp_path), S3Options()))
    assert told(engine) == []


def told(engine: Engine) -> list[dict[str, Any]]:
    rows = look(engine, "SELECT body FROM webhook_deliveries ORDER BY id")
    return [json.loads(row["body"])["data"] for row in rows]
