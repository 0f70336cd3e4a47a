"""What scheduler and worker serve over HTTP while a batch is rendered, checked against the tables."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.monitoring.listen_address import ListenAddress
from jobs.settings import Settings
from scheduler.ingest.ingest import Ingested
from tests.chaos.mill import rendering
from tests.chaos.stub import stubbed
from tests.end_to_end.processes import end, foxes, kill, running, until
from tests.factories import change, look
from tests.infra.programs import program
from tests.scraping import free_address, get, listens, scrape
from tests.servers import redis_in
from tests.worker.contexts import submit
from worker.health.lane_backoff import FIRST_PAUSE_S


def submitted(settings: Settings, engine: Engine, folder: Path, rows: list[dict[str, object]]) -> Ingested:
    return submit(settings, engine, folder, rows, clip_score="off", watermark="off")


@contextmanager
def farm(settings: Settings, folder: Path, step_s: float = 0.0) -> Iterator[tuple[str, str, psutil.Popen]]:
    """The addresses of a scheduler and of a worker with stub models, both of which answer; and the worker."""
    first = ListenAddress.parse(free_address())
    addresses = str(first), str(first.moved(1))
    serving = [
        settings.model_copy(update={"metrics_address": address, "device": "cpu"}) for address in addresses
    ]
    with (
        stubbed(folder, step_s=step_s),
        running(serving[0], "scheduler"),
        running(serving[1], "worker") as (worker,),
    ):
        until(lambda: all(map(listens, addresses)))
        yield *addresses, worker


def ended(engine: Engine) -> bool:
    return not look(engine, "SELECT 1 FROM jobs WHERE finished_at IS NULL")


def passes_promtool(page: str) -> bool:
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=page,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    return (checked.returncode, checked.stderr) == (0, "")


def test_a_batch_is_counted_as_the_tables_have_it(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    rows = [
        *foxes(6),
        {"prompt": "explicit nudity"},
        {"prompt": "fault:black once"},
        {"prompt": "fault:exception:once fox"},
    ]
    submitted(settings, engine, tmp_path, rows)
    with farm(settings, tmp_path) as (scheduler, worker, process):
        until(lambda: ended(engine))
        counts = {
            row["state"]: row["n"] for row in look(engine, "SELECT state, count(*) AS n FROM jobs GROUP BY 1")
        }
        assert counts == {"done": 7, "blocked": 1, "failed": 1}
        (stored,) = look(engine, "SELECT count(*) AS n, sum(bytes)::int AS bytes FROM images")
        found = until(lambda: (now := scrape(worker)).get("nightmill_jobs_ended_total failed") and now)
        assert {state: found[f"nightmill_jobs_ended_total {state}"] for state in counts} == counts
        assert found["nightmill_images_total tiny-random"] == stored["n"] == 7
        assert found["nightmill_upload_bytes_total"] == stored["bytes"]
        assert found["nightmill_attempts_total done"] == 7
        outcomes = {
            row["outcome"]: row["n"]
            for row in look(engine, "SELECT outcome, count(*) AS n FROM attempts GROUP BY 1")
        }
        assert {outcome: found[f"nightmill_attempts_total {outcome}"] for outcome in outcomes} == outcomes
        assert found["nightmill_stage_seconds_count upload"] == 7
        assert found["nightmill_device_batch_seconds_count"] >= 8
        assert found["nightmill_device_busy_seconds_total cpu:0"] > 0
        assert found["nightmill_model_load_seconds_count tiny-random"] == 1
        assert found["nightmill_worker_healthy cpu:0"] == found["nightmill_children_up"] == 1
        assert get(worker, "/healthz").body == "ok\n"
        until(lambda: get(worker, "/readyz").body == get(worker, "/readyz/busy").body == "ready\n")
        change(engine, "UPDATE workers SET activity_since = now() - interval '61 seconds'")
        until(lambda: get(worker, "/readyz/busy").body.startswith("no work for 6"))
        assert get(worker, "/readyz").body == "ready\n"
        assert scrape(scheduler)["nightmill_wakeups_sent_total"] >= 1
        for address in (scheduler, worker):
            assert passes_promtool(get(address, "/metrics").body)
        assert end(process) == 0


def test_a_child_that_is_killed_takes_no_more_than_its_last_second_with_it(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    submitted(settings.model_copy(update={"batch_size": 1}), engine, tmp_path, foxes(60))
    with farm(settings.model_copy(update={"batch_size": 1, "claim": 2}), tmp_path, 0.03) as (
        _,
        worker,
        process,
    ):
        until(lambda: look(engine, "SELECT count(*) AS n FROM images")[0]["n"] >= 20)
        (child,) = rendering(process)
        kill(child)
        (killed,) = look(engine, "SELECT clock_timestamp() AS at")
        until(lambda: ended(engine), 60)
        (images,) = look(
            engine,
            "SELECT count(*) AS n, count(*) FILTER (WHERE created_at BETWEEN :at - interval '1s' AND :at) AS late "
            "FROM images",
            at=killed["at"],
        )
        assert images["n"] == 60
        time.sleep(1)
        found = scrape(worker)
        assert 60 - images["late"] <= found["nightmill_images_total tiny-random"] <= 60
        assert 0 < images["late"] < 40, "so most of them must have been told"
        assert found["nightmill_children_restarted_total killed"] == 1
        assert found["nightmill_worker_healthy cpu:0"] == 1


def test_a_worker_that_cannot_work_is_not_ready_and_says_why(
    settings: Settings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAOS_BROKEN", "load")
    submitted(settings, engine, tmp_path, foxes(2))
    with farm(settings, tmp_path) as (scheduler, worker, _):
        reason = "can't load the model 'tiny-random': the model is not there: /models isn't mounted\n"
        until(lambda: get(worker, "/readyz").body == reason)
        until(lambda: scrape(worker)["nightmill_worker_healthy cpu:0"] == 0, 10 * FIRST_PAUSE_S)
        assert get(worker, "/healthz").body == "ok\n"
        until(lambda: scrape(scheduler)["nightmill_workers default unhealthy"] == 1)


HANGS_AT_SIGWINCH = """
import signal, time
import worker.monitoring.parent_routes, worker.__main__

worker.monitoring.parent_routes.STANDSTILL_S = 4.0
if __name__ == "__main__":
    signal.signal(signal.SIGWINCH, lambda *_: time.sleep(8))
    worker.__main__.main()
"""


def test_a_worker_is_alive_while_redis_is_away_and_not_when_its_main_loop_hangs(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    address = free_address()
    program = tmp_path / "worker_that_may_hang.py"
    program.write_text(HANGS_AT_SIGWINCH)
    with stubbed(tmp_path):
        with redis_in(tmp_path / "redis") as url:
            given = settings.model_copy(
                update={"metrics_address": address, "broker_url": SecretStr(url), "device": "cpu"}
            )
            with (tmp_path / "log").open("wb") as log:
                process = psutil.Popen(
                    [sys.executable, str(program)], env=given.environment(), stdout=log, stderr=log
                )
            until(lambda: listens(address) and get(address, "/readyz").status == 200)
        for _ in range(12):
            time.sleep(0.5)
            assert get(address, "/healthz").body == "ok\n", (
                "it is trying to reach Redis, and renders meanwhile"
            )
        process.send_signal(signal.SIGWINCH)
        hung = until(lambda: (page := get(address, "/healthz")).status == 503 and page)
        assert hung.body.startswith("the main loop has stood still for 4 s")
        until(lambda: get(address, "/healthz").status == 200)
        kill(process)
        process.wait()
