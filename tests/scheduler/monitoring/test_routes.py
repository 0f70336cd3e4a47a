"""A scheduler process is scraped and probed over HTTP, while its servers are there and while they are away."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.monitoring.liveness_and_readiness import Liveness
from jobs.settings import Settings
from scheduler.monitoring import routes
from scheduler.monitoring.routes import scheduler_routes
from tests.end_to_end.processes import running, until
from tests.factories import change, make_lane, states, take
from tests.relay import Relay
from tests.scraping import free_address, get, listens, parsed, scrape


@pytest.fixture
def served(settings: Settings) -> Settings:
    return settings.model_copy(update={"metrics_address": free_address()})


def test_a_scheduler_tells_what_it_did_and_what_is_queued(served: Settings, engine: Engine) -> None:
    address = str(served.metrics_address)
    lane = make_lane(engine, 3, name="foxes")
    take(engine, lane, 2)
    change(engine, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running'")
    with running(served, "scheduler"):
        until(lambda: listens(address))
        until(lambda: states(engine) == {"queued": 3})
        found = until(lambda: (now := scrape(address))["nightmill_wakeups_sent_total"] >= 1 and now)
        assert found["nightmill_rescued_jobs_total"] == found["nightmill_attempts_total expired"] == 2
        assert found["nightmill_database_up"] == 1
        assert found["nightmill_build_info 0.1.0"] == 1
        assert found["process_resident_memory_bytes"] > 1e6
        assert "nightmill_batch_jobs foxes queued" in found
        assert json.loads(get(address, "/scale/default").body) == {
            "pool": "default",
            "wanted": found["nightmill_wanted_workers default"],
        }
        assert get(address, "/scale/farm").status == 404
        assert get(address, "/healthz").body == "ok\n"
        assert get(address, "/readyz").body == "ready\n"


def test_without_the_setting_it_listens_nowhere(settings: Settings) -> None:
    code = "import socket; socket.socket.listen = None; import scheduler.__main__ as m; m.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=settings.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "scheduling" in process.stderr.readline()
        process.terminate()
        assert process.wait(150) == 0


def test_a_port_in_use_is_said(served: Settings) -> None:
    with running(served, "scheduler"):
        until(lambda: listens(str(served.metrics_address)))
        second = subprocess.run(
            [sys.executable, "-m", "scheduler"],
            env=served.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith(
        f"error: NIGHTMILL_METRICS_ADDRESS: can't listen on {served.metrics_address}"
    )


def test_while_postgres_is_away_it_answers_quickly_and_says_so(engine: Engine, served: Settings) -> None:
    with ExitStack() as stack:
        relay = Relay(served.database)
        cut = served.model_copy(update={"database_url": SecretStr(relay.url)})
        stack.enter_context(running(cut, "scheduler"))
        with relay:
            address = str(served.metrics_address)
            until(lambda: listens(address) and get(address, "/readyz").status == 200)
            relay.is_silent.set()
            until(lambda: scrape(address)["nightmill_database_up"] == 0)
            began = time.monotonic()
            found = scrape(address)
            assert time.monotonic() - began < 2.5
            assert "nightmill_jobs queued" not in found
            assert "nightmill_wakeups_sent_total" in found
            assert get(address, "/scale/default").status == 503
            assert get(address, "/readyz").body == "PostgreSQL doesn't answer\n"
            assert get(address, "/healthz").status == 200


def test_an_error_of_postgres_is_not_taken_for_silence(engine: Engine) -> None:
    change(engine, "ALTER TABLE pools RENAME TO pools_elsewhere")
    table = scheduler_routes(engine, Liveness(60))
    said = "a query of PostgreSQL failed; the log says why"
    assert (table["/readyz"]("").status, table["/readyz"]("").body) == (503, f"{said}\n".encode())
    scaled = table["/scale/"]("default")
    assert (scaled.status, json.loads(scaled.body)) == (503, {"pool": "default", "error": said})
    found = parsed(table["/metrics"]("").body.decode())
    assert found["nightmill_database_up"] == 1
    assert "nightmill_unfinished_batches" not in found


def test_many_scrapes_at_once_ask_the_database_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def figures(known: Engine) -> object:
        asked.append(1)
        time.sleep(0.2)
        return queue_figures(known)

    queue_figures = routes.queue_figures
    monkeypatch.setattr(routes, "queue_figures", figures)
    table = scheduler_routes(engine, Liveness(60))
    with ThreadPoolExecutor(16) as threads:
        pages = list(threads.map(lambda _: table["/metrics"]("").body.decode(), range(64)))
    assert {parsed(page)["nightmill_database_up"] for page in pages} == {1}
    assert (len(asked), threading.active_count() < 20) == (1, True)
