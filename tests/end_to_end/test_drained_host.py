"""A drained host: real processes give back what they hold, and stay out when they are started again."""

import socket
from pathlib import Path

from sqlalchemy import Engine

from jobs.queue.worker_registry import workers
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed
from tests.end_to_end.processes import check_exactly_once, foxes, manifest, running, truth, until
from tests.factories import states

HOST = socket.gethostname()


def test_a_host_is_drained_with_a_batch_on_its_way(
    settings: Settings, engine: Engine, tmp_path: Path, typed: Typed
) -> None:
    few = settings.model_copy(update={"batch_size": 2})
    assert typed("submit", manifest(tmp_path, foxes(24))).code == 0
    with stubbed(tmp_path, step_s=0.1), running(few, "scheduler"):
        with running(few, "worker"):
            until(lambda: states(engine).get("done"))
            drained = typed("workers", "drain", HOST, "--wait", "--timeout", "30s")
            assert drained.code == 0, drained.err
            done = states(engine)
            assert {"done", "queued"} == done.keys(), "it holds nothing, and was not at the end"
            assert {job["attempt"] for job in truth(engine, "foxes").jobs if job["state"] == "queued"} == {0}
            assert [worker.shown_state for worker in workers(engine)] == ["drained"]
        with running(few, "worker"):
            until(lambda: [worker.activity for worker in workers(engine)] == ["idle"])
            (again,) = typed("workers", "--json").json
            assert (again["state"], again["warm_models"], states(engine)) == ("drained", [], done)
            assert f"the workers of {HOST} are drained" in typed("status").err
            assert typed("workers", "undrain", HOST).code == 0
            until(lambda: states(engine) == {"done": 24})
    assert check_exactly_once(engine, "foxes", settings.output).attempts() == {1}
