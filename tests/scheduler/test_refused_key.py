"""A key that S3 refuses: exports and sweeps of the scheduler say whose, wait, and go on with the renewed one."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.exports import records
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.export import live_exports
from scheduler.export.export_request import ExportRequest
from scheduler.export.live_exports import LiveExports
from scheduler.export.open_export import open_export
from scheduler.unfinished_and_late_uploads import ImageSweeper
from tests.chaos.proxy import Proxy, faulty
from tests.factories import image, lanes_of, make_batch, take
from tests.s3 import S3Server, shared_credentials

OLD, NEW = "AKIAOLDOLDOLDOLDOLD1", "AKIANEWNEWNEWNEWNEW2"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A proxy before the store that can refuse keys."""
    with faulty(s3.endpoint_url, share=0, hang_s=0) as proxy:
        yield proxy


def test_exports_and_sweeps_wait_for_the_renewed_key(
    settings: Settings,
    engine: Engine,
    s3: S3Server,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(live_exports, "RETRY_S", 0)
    key_file = shared_credentials(tmp_path / "credentials", OLD, monkeypatch)
    reaching = {"s3_endpoint_url": proxy.endpoint_url, "s3_region": "us-east-1"}
    own = settings.model_copy(update=reaching)
    store = open_store(f"{s3.uri}/exports", S3Options(proxy.endpoint_url, "us-east-1"))
    batch = make_batch(engine, 2, output=f"{s3.uri}/images")
    jobs = [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    transitions.complete(engine, [image(job) for job in jobs])
    opened = open_export(engine, ExportRequest([actions.status(engine, batch.name)], "jsonl", store))
    records.make_live(engine, opened.id, is_live=True)
    writer, sweeper = LiveExports(own, engine, SignalSafeEvent()), ImageSweeper(own, engine)

    proxy.refusal = lambda request: (403, "InvalidAccessKeyId") if request.key_id == OLD else None
    assert writer.step() == 0
    reason = records.exports_of(engine)[0].error
    assert reason is not None
    assert "(InvalidAccessKeyId); key …OLD1 from the shared credentials file" in reason
    with caplog.at_level(logging.WARNING):
        assert sweeper.begin() == 1
        sweeper.step()
    assert "isn't swept: can't " in caplog.text
    assert "key …OLD1" in caplog.text

    shared_credentials(key_file, NEW)
    caplog.clear()
    assert writer.step() == 1
    assert records.exports_of(engine)[0].error is None
    sweeper.begin()
    sweeper.step()
    assert not caplog.text
