"""What the units run, run here as they say, without a sandbox: arguments, variables, credentials and signals.

Workers draw with stubs; `tests/slow/test_systemd.py` has the real models, in the sandbox.
"""

import os
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from jobs.db.engine import connect
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed
from tests.end_to_end.processes import descendants, foxes, manifest, truth, until
from tests.infra.hosts.notify_socket import NotifySocket
from tests.infra.hosts.systemd_units import Host, one

SCHEDULER, WORKER = "nightmill-scheduler.service", "nightmill-worker@cpu.service"


@pytest.fixture
def host(settings: Settings, empty_database: str, tmp_path: Path) -> Host:
    """A host with the secrets and settings of an installation whose database is empty."""
    host = Host(tmp_path)
    (host.etc / "secrets" / "database_url").write_text(f"{empty_database}\n")
    (host.etc / "secrets" / "broker_url").write_text(f"{settings.broker}\n")
    given = {
        "OUTPUT": settings.output,
        "MODELS_DIR": settings.models_path,
        "DEFAULT_MODEL": "tiny-random",
        "QUEUE": settings.queue,
    }
    (host.etc / "nightmill.env").write_text("".join(f"NIGHTMILL_{key}={v}\n" for key, v in given.items()))
    (host.etc / "worker-cpu.env").write_text("NIGHTMILL_DEVICE=cpu\n")
    return host


def test_units_render_a_manifest_and_stop_in_time(
    host: Host, settings: Settings, empty_database: str, tmp_path: Path
) -> None:
    assert "migrated from an empty database" in host.run("nightmill-migrate.service")
    on_it = settings.model_copy(update={"database_url": type(settings.database_url)(empty_database)})
    assert Typed(on_it, tmp_path)("submit", manifest(tmp_path, foxes(3))).code == 0
    engine = connect(empty_database)
    with stubbed(tmp_path), ExitStack() as stack:
        told = {
            unit: stack.enter_context(NotifySocket(f"@{tmp_path.name}-{secrets.token_hex(4)}"))
            for unit in (SCHEDULER, WORKER)
        }
        started = {
            unit: stack.enter_context(host.start(unit, **socket.variables(watchdog_s=6)))
            for unit, socket in told.items()
        }
        try:
            for socket in told.values():
                socket.read_until("READY=1")
                socket.read_until("WATCHDOG=1")
            for process in started.values():
                for member in [process, *descendants(psutil.Process(process.pid))]:
                    os.kill(member.pid, signal.SIGHUP)
            until(lambda: truth(engine, "foxes").states() == {"done"})
        finally:
            for process in started.values():
                process.terminate()
        began = time.monotonic()
        for socket in told.values():
            socket.read_until("STOPPING=1")
        for unit, process in started.items():
            left = float(one(unit, "TimeoutStopSec")) - (time.monotonic() - began)
            assert process.wait(left) == 0, unit
            assert process.stdout is not None
            assert "signal" not in process.stdout.read(), "a child that SIGHUP had killed"
    assert len(list(Path(settings.output).rglob("*.png"))) >= 3
    engine.dispose()
    with ThreadPoolExecutor() as threads:
        said = threads.map(host.run, ("nightmill-sweep.service", "nightmill-archive.service"))
        assert list(said) == [
            "0 unreferenced objects (0 B) went\n",
            "no batch is chosen, so none is archived\n",
        ]
