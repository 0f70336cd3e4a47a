from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.harness.services import Place, open_place
from bench.queue.rates_of_other_job_queues import pgqueuer_rate, procrastinate_rate
from bench.watermark import measure_marks
from jobs.settings import Settings

PACKAGES = ("procrastinate", "pgqueuer", "asyncpg", "uvloop")
MISSING = [package for package in PACKAGES if find_spec(package) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; pip install -e '.[bench]'")
def test_both_peers_do_all_their_jobs() -> None:
    with open_place() as place:
        for measure in (procrastinate_rate, pgqueuer_rate):
            rate = measure(place, 50)
            assert rate is not None
            assert rate > 0


def test_a_missing_peer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.queue.rates_of_other_job_queues.find_spec", lambda _: None)
    monkeypatch.setattr("bench.watermark.find_spec", lambda _: None)
    nowhere = Place(tmp_path, Settings.model_construct())
    assert procrastinate_rate(nowhere, 50) is None
    assert pgqueuer_rate(nowhere, 50) is None
    assert measure_marks(1) == {}
    said = capsys.readouterr().err
    assert "procrastinate: not measured" in said
    assert "pgqueuer: not measured" in said
    assert "invisible-watermark: not measured, imwatermark is not installed" in said
