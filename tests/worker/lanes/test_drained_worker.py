"""A worker that is drained: it finishes its device batch, gives back the rest, and loads no model."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.job_dataclasses import LaneId
from jobs.queue.worker_drains import Target, drain, holding, undrain
from jobs.queue.worker_registry import workers
from jobs.states import DrainKind
from tests.factories import look, states
from tests.worker.contexts import submit
from worker.lanes.worker_context import WorkerContext
from worker.lanes.worker_loop import follow
from worker.liveness.progress_heartbeat import Heartbeat
from worker.model_cache.cache import ModelCache

OWN: Target = (DrainKind.WORKER, "tester")
ROWS = [{"prompt": f"fox {number}", "steps": 3} for number in range(10)]


class DrainingHeartbeat(Heartbeat):
    """Drains its worker between the first two steps."""

    context: WorkerContext

    def beat(self) -> None:
        super().beat()
        drain(self.context.engine, [OWN], drained_by="anna@desk")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.lanes.worker_loop.UNABLE_S", 0.0)


def test_a_worker_finishes_its_device_batch_and_gives_back_the_rest(
    context: WorkerContext, tmp_path: Path
) -> None:
    heartbeat = DrainingHeartbeat(60)
    heartbeat.context = drained = replace(context, heartbeat=heartbeat)
    submit(context.settings, context.engine, tmp_path, ROWS)
    assert follow(drained, LaneId(1)) == 10
    assert states(context.engine) == {"done": 4, "queued": 6}, "four is the device batch"
    attempts = look(context.engine, "SELECT DISTINCT state, attempt FROM jobs ORDER BY 1")
    assert [(row["state"], row["attempt"]) for row in attempts] == [("done", 1), ("queued", 0)]
    assert holding(context.engine, [OWN]) == []
    assert [worker.shown_state for worker in workers(context.engine)] == ["drained"]
    assert follow(context, LaneId(1)) == 0
    undrain(context.engine, [OWN])
    assert follow(context, LaneId(1)) == 6
    assert states(context.engine) == {"done": 10}


def test_a_drained_worker_loads_no_model(context: WorkerContext, tmp_path: Path) -> None:
    cold = replace(context, model_cache=ModelCache(context.settings, 0))
    submit(context.settings, context.engine, tmp_path, ROWS[:1])
    drain(context.engine, [OWN], drained_by="anna@desk")
    assert follow(cold, LaneId(1)) == 0
    assert cold.model_cache.models() == set()
    cold.leases.registration.renew()
    assert cold.is_unable(), "it leaves wake-ups to others"
    undrain(context.engine, [OWN])
    cold.leases.registration.renew()
    assert not cold.is_unable()
