"""`up` is asked for a restart and for another number of workers, with a batch on its way."""

from pathlib import Path

from sqlalchemy import Engine

from console.process_control import background_up
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed
from tests.end_to_end.processes import foxes, manifest, truth, until
from tests.factories import lane_differences, look, states


def test_up_restarts_and_changes_its_workers_without_losing_a_claim(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    typed = Typed(settings.model_copy(update={"batch_size": 1}), tmp_path)
    assert typed("submit", manifest(tmp_path, foxes(100))).code == 0
    with stubbed(tmp_path, step_s=0.1):
        try:
            assert typed("up").code == 0
            first = background_up.report(settings)
            until(lambda: states(engine).get("done"))
            # Not what would make the images others: `up` is to say so.
            other = Typed(typed.settings.model_copy(update={"watermark": "MINE"}), tmp_path)
            restarted = other("up", "--restart")
            assert restarted.code == 0, restarted.err
            assert "MINE, as here, has no effect: `nightmill down` and" in " ".join(restarted.err.split())
            second = background_up.report(settings)
            assert first is not None
            assert second is not None
            assert set(first.worker_pids).isdisjoint(second.worker_pids)
            until(lambda: states(engine).get("running"))
            fewer = typed("up", "--workers", "0")
            assert (fewer.code, "up: a scheduler and 0 workers" in fewer.err) == (0, True), fewer.err
            assert states(engine).keys() == {"done", "queued"}, "what it held went back at once"
        finally:
            assert typed("down").code == 0
    jobs = truth(engine, "foxes").jobs
    assert {(job["state"], job["attempt"]) for job in jobs} == {("done", 1), ("queued", 0)}
    assert look(engine, "SELECT * FROM attempts") == []
    assert lane_differences(engine) == []
