"""The units of `infra/systemd` under a real systemd, installed and started by the commands of their page.

Needs root, systemd and cgroups of version 2.
"""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from jobs.db.engine import connect
from jobs.services.broker_program import broker_program
from tests.end_to_end.processes import foxes, truth, until
from tests.paths import ROOT
from tests.relay import Relay
from tests.scraping import free_address
from tests.slow.systemd_machine import Machine, booted

PAGE = ROOT / "docs" / "deployment" / "systemd.md"
SCHEDULER, WORKER = "nightmill-scheduler.service", "nightmill-worker@cpu.service"

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(600)]


def commands(name: str) -> str:
    """The block of commands that follows the mark of this name in the page."""
    (found,) = re.findall(rf"<!-- {name} -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis that listens on a port."""
    port = free_address().rpartition(":")[2]
    command = [
        *broker_program().command,
        "--port",
        port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}"
        until(lambda: _answers(url))
        yield url
        process.terminate()


def _answers(url: str) -> bool:
    with suppress(redis.RedisError):
        return bool(redis.Redis.from_url(url).ping())
    return False


@pytest.fixture
def machine(empty_database: str, broker: str, tmp_path: Path) -> Iterator[Machine]:
    """A host after the first block of commands, with secrets, settings and a worker without GPU."""
    with Relay(empty_database) as relay, booted(tmp_path) as machine:
        machine.sh("systemctl start systemd-journald.socket systemd-journald-dev-log.socket")
        machine.sh(commands("install"))
        for name, value in {"database_url": relay.url, "broker_url": broker}.items():
            machine.sh(f"umask 077; echo {shlex.quote(value)} > /etc/nightmill/secrets/{name}")
        machine.sh("echo NIGHTMILL_DEVICE=cpu > /etc/nightmill/worker-cpu.env")
        machine.sh("printf 'NIGHTMILL_BATCH_SIZE=1\nNIGHTMILL_CLAIM=8\n' >> /etc/nightmill/nightmill.env")
        yield machine


def test_units_under_systemd(machine: Machine, empty_database: str) -> None:
    engine = connect(empty_database)
    start = commands("start").replace("nightmill-worker@0.service", WORKER)
    machine.sh(start)
    for unit in (SCHEDULER, WORKER, "nightmill-sweep.timer", "nightmill-archive.timer"):
        assert machine.show(unit, "ActiveState") == "active", machine.logs()
    _check_it_renders(machine, engine)
    _check_the_sandbox(machine)
    _check_a_killed_worker_is_started_again(machine)
    _check_a_stop_in_mid_work_costs_nothing(machine, engine)
    _check_a_scheduler_that_stands_still_is_started_again(machine)
    for unit in ("nightmill-sweep.service", "nightmill-archive.service"):
        machine.sh(f"systemctl start {unit}")
        assert machine.show(unit, "Result") == "success"
    machine.sh("systemctl stop nightmill.target")
    until(lambda: [machine.show(unit, "ActiveState") for unit in (SCHEDULER, WORKER)] == ["inactive"] * 2)
    assert machine.show(SCHEDULER, "Result") == "success"
    _check_missing_secrets(machine)
    engine.dispose()


def _submit(machine: Machine, name: str, rows: int, steps: int) -> None:
    """As a person on the host does, who has the rights of the services."""
    lines = "\n".join(json.dumps(row) for row in foxes(rows, steps=steps, model="tiny-random"))
    secret = "$(cat /etc/nightmill/secrets/{}_url)"
    urls = " ".join(f"NIGHTMILL_{one.upper()}_URL={secret.format(one)}" for one in ("database", "broker"))
    machine.sh(f"cat > /tmp/{name}.jsonl <<'END'\n{lines}\nEND")
    command = f"/opt/nightmill/bin/nightmill submit /tmp/{name}.jsonl"
    machine.sh(
        f"cd /var/lib/nightmill; runuser -u nightmill -- env NIGHTMILL_OUTPUT=/srv/nightmill {urls} {command}"
    )


def _check_it_renders(machine: Machine, engine: Engine) -> None:
    _submit(machine, "first", 4, 2)
    try:
        until(lambda: truth(engine, "first").states() == {"done"}, 90)
    except AssertionError:
        pytest.fail(machine.logs())
    files = machine.sh("find /srv/nightmill/first -name '*.png' -path '*/images/*' -user nightmill").split()
    assert len(files) == 4


def _check_the_sandbox(machine: Machine) -> None:
    """What the kernel says of the running processes, not what the units ask for."""
    for unit in (SCHEDULER, WORKER):
        pid = machine.show(unit, "MainPID")
        status = dict(
            line.split(":\t", 1)
            for line in machine.sh(f"cat /proc/{pid}/status").splitlines()
            if ":\t" in line
        )
        assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0), unit
        assert "://" not in machine.sh(f"tr '\\0' '\\n' < /proc/{pid}/cmdline")
        inside = f"nsenter -t {pid} -m --"
        assert "Read-only file system" in machine.sh(f"{inside} touch /etc/x 2>&1 || true")
        assert machine.sh(f"{inside} ls /home /root").split() == ["/home:", "/root:"]


def _check_a_killed_worker_is_started_again(machine: Machine) -> None:
    before = machine.show(WORKER, "MainPID")
    machine.sh(f"systemctl kill --signal=KILL {WORKER}")
    until(lambda: machine.show(WORKER, "MainPID") not in (before, "0"))
    assert machine.show(WORKER, "NRestarts") == "1"


def _check_a_scheduler_that_stands_still_is_started_again(machine: Machine) -> None:
    folder = f"/etc/systemd/system/{SCHEDULER}.d"
    machine.sh(
        f"mkdir {folder}; printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n' > {folder}/quick.conf"
    )
    machine.sh(f"systemctl daemon-reload; systemctl restart {SCHEDULER}")
    before = machine.show(SCHEDULER, "MainPID")
    time.sleep(3)
    assert machine.show(SCHEDULER, "MainPID") == before, "it shows that it lives"
    machine.sh(f"kill -STOP {before}")
    until(lambda: machine.show(SCHEDULER, "MainPID") not in (before, "0"))
    assert machine.show(SCHEDULER, "NRestarts") == "1"
    assert "watchdog" in machine.logs().lower()
    machine.sh(f"rm -r {folder}; systemctl daemon-reload; systemctl restart {SCHEDULER}")


def _check_a_stop_in_mid_work_costs_nothing(machine: Machine, engine: Engine) -> None:
    _submit(machine, "long", 400, 40)

    def done() -> int:
        return sum(job["state"] == "done" for job in truth(engine, "long").jobs)

    until(lambda: done() > 3, 90)
    began = time.monotonic()
    machine.sh(f"systemctl stop {WORKER}")
    assert time.monotonic() - began < float(machine.show(WORKER, "TimeoutStopUSec").removesuffix("s"))
    assert machine.show(WORKER, "Result") == "success", "it wasn't killed"
    found = truth(engine, "long")
    assert found.states() == {"done", "queued"}
    assert {job["attempt"] for job in found.jobs if job["state"] == "queued"} == {0}


def _check_missing_secrets(machine: Machine) -> None:
    machine.sh("mv /etc/nightmill/secrets/database_url /etc/nightmill/secrets/elsewhere")
    machine.sh("systemctl start --no-block nightmill-migrate.service")
    until(lambda: machine.show("nightmill-migrate.service", "Result") == "exit-code")
    assert machine.show("nightmill-migrate.service", "ExecMainStatus") == "243", "EXIT_CREDENTIALS"
