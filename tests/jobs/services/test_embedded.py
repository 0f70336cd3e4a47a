"""Private PostgreSQL and Redis: started for the first user, stopped after the last, wherever the data folder is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from celery import Celery
from pydantic import SecretStr
from sqlalchemy import text

from jobs.celery_config import celery_settings
from jobs.db.engine import check_reachable, connect
from jobs.errors import ServiceError
from jobs.services.broker_program import BUILT_IN
from jobs.services.embedded import services, stop_services
from jobs.services.redis import start_redis
from jobs.settings import Settings, load_settings
from tests.paths import ROOT

USER = """
import sys
from jobs.services.embedded import services
from jobs.settings import load_settings
from tests.jobs.services.test_embedded import works
with services(load_settings()) as settings:
    print("in", flush=True)
    for line in sys.stdin:
        print("works" if works(settings) else "gone", flush=True)
        break
"""


def works(settings: Settings) -> bool:
    """Whether both servers answer at the addresses in the settings."""
    engine = connect(settings.database)
    try:
        check_reachable(engine)
    except ServiceError:
        return False
    finally:
        engine.dispose()
    app = Celery()
    app.conf.update(celery_settings(settings))
    with app.connection_for_read() as connection:
        return bool(connection.default_channel.client.ping())


def running(settings: Settings) -> list[str]:
    """The servers of this data folder that are processes now."""
    folder = str(settings.data_dir)
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if any(folder in part for part in [*command, process.cwd()]) and "-c" not in command:
                name = Path(process.exe()).name
                found += ["postgres"] if "postgres" in name else []
                found += ["redis"] if "redis" in name or "valkey" in name or BUILT_IN in command else []
        except psutil.Error:
            continue
    return sorted(set(found))


@contextmanager
def other_user(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the services until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER],
        env=settings.environment() | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "in\n"
        yield process
        process.stdin.close()
        process.wait(150)


@pytest.fixture
def private(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def users(settings: Settings) -> list[int]:
    content = json.loads((settings.data_dir / "services.json").read_text())
    return [pid for pid, _ in content["running"]]


def test_servers_run_while_they_are_used_and_keep_their_data(private: Settings) -> None:
    with services(private) as configured:
        assert works(configured)
        assert running(private) == ["postgres", "redis"]
        assert users(private) == [os.getpid()]
        engine = connect(configured.database)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE kept (id int)"))
        engine.dispose()
    assert running(private) == []
    assert users(private) == []
    with services(private) as configured:
        engine = connect(configured.database)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM kept")).scalar_one() == 0
        engine.dispose()
    assert running(private) == []


def test_the_first_to_leave_stops_nothing(private: Settings) -> None:
    with other_user(private) as other:
        with services(private):
            assert users(private) == [other.pid, os.getpid()]
        assert users(private) == [other.pid]
        assert stop_services(private) == [other.pid]
        print("?", file=other.stdin, flush=True)
        assert other.stdout.readline() == "works\n"
    assert running(private) == []


def test_a_user_that_was_killed_holds_nothing_up(private: Settings) -> None:
    with services(private):
        with other_user(private) as other:
            other.send_signal(signal.SIGKILL)
            other.wait()
        assert users(private) == [os.getpid(), other.pid], "it could not say goodbye"
        assert running(private) == ["postgres", "redis"]
    assert running(private) == []


def test_processes_that_only_look_like_users_are_dropped(private: Settings) -> None:
    """A dead process id, and one that by now belongs to another process, as its start time tells."""
    private.data_dir.mkdir()
    listed = private.data_dir / "services.json"
    listed.write_text(json.dumps({"running": [[2**22 + 1, 0.0], [os.getppid(), 1.0]]}))
    with services(private):
        assert users(private) == [os.getpid()]
    assert running(private) == []


def test_servers_of_a_user_that_is_gone_are_stopped_by_hand(private: Settings) -> None:
    with other_user(private) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert running(private) == ["postgres", "redis"]
    assert stop_services(private) == []
    assert running(private) == []
    assert stop_services(private) == [], "a second time is fine"


@pytest.mark.parametrize("name", ["deep/" * 30 + "data", "it's ü%+#&"])
def test_any_folder_will_do(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    private = load_settings(data_dir=tmp_path_factory.mktemp("x") / name)
    with services(private) as configured:
        assert works(configured)
    assert running(private) == []


def test_a_damaged_list_of_users_is_an_empty_one(private: Settings) -> None:
    private.data_dir.mkdir()
    (private.data_dir / "services.json").write_text('{"running": [[1')
    with services(private) as configured:
        assert works(configured)
    assert running(private) == []


def test_configured_services_need_no_folder(tmp_path: Path) -> None:
    configured = load_settings(
        data_dir=tmp_path / "data", database_url="postgresql://h/d", broker_url="redis://h/0"
    )
    with services(configured) as settings:
        assert settings == configured
    assert stop_services(configured) == []
    assert not (tmp_path / "data" / "postgres").exists()


def test_only_what_is_not_configured_is_private(private: Settings) -> None:
    half = private.model_copy(update={"database_url": SecretStr("postgresql://host/db")})
    with services(half) as settings:
        assert settings.database == "postgresql://host/db"
        assert running(private) == ["redis"]
    assert running(private) == []


def test_a_server_that_can_not_start_is_told_with_its_folder(private: Settings) -> None:
    private.data_dir.mkdir()
    (private.data_dir / "postgres").write_text("in the way")
    with pytest.raises(
        ServiceError, match=r"can't start the private PostgreSQL in .*/data/postgres: .* or set NIGHT"
    ):
        services(private).__enter__()
    assert running(private) == []


def test_a_half_made_postgres_is_told_each_time(private: Settings) -> None:
    """As a killed initdb leaves it: with the process file of a server that never listened."""
    folder = private.data_dir / "postgres"
    folder.mkdir(parents=True)
    (folder / "postmaster.pid").write_text(f"-{os.getpid()}\n{folder}\n")
    for made in ("pg_hba.conf", "pg_ident.conf", "PG_VERSION"):
        for _ in range(2):
            with pytest.raises(ServiceError, match="can't start the private PostgreSQL"):
                services(private).__enter__()
        (folder / made).write_text("18\n" if made == "PG_VERSION" else "")
    assert (running(private), users(private)) == ([], [])
    assert stop_services(private) == []


def test_half_of_the_services_is_not_left_running(private: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = private.data_dir.parent / "bin"
    programs.mkdir()
    broken = programs / "redis-server"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(ServiceError, match=r"can't start the private Redis in .* exit status 3"):
        services(private).__enter__()
    assert (running(private), users(private)) == ([], [])


def test_a_folder_that_no_command_can_name_is_refused(tmp_path: Path) -> None:
    private = load_settings(data_dir=tmp_path / "$(touch harm)")
    with pytest.raises(ServiceError, match=r"the path has \$; set NIGHTMILL_DATA_DIR to another"):
        services(private).__enter__()


def test_a_long_path_of_temporary_files_will_do(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("x") / ("deep" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    private = load_settings(data_dir=folder / "data")
    with services(private) as configured:
        assert works(configured)
    assert running(private) == []


def test_a_redis_that_does_not_answer_is_not_started_twice(private: Settings) -> None:
    """As when the machine is out of memory: the second would take the first one's socket, and both would stay."""
    pidfile = private.data_dir / "redis" / "redis.pid"
    with services(private):
        process = psutil.Process(int(pidfile.read_text()))
        process.suspend()
        try:
            start_redis(pidfile.parent)
            assert int(pidfile.read_text()) == process.pid
        finally:
            process.resume()
    assert running(private) == []
