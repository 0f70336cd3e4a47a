"""Commands that follow something outlast a PostgreSQL that goes and comes."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

import migrations
from jobs.db.engine import connect
from jobs.services.postgres import start_postgres, stop_postgres
from jobs.settings import Settings
from tests.command_line import Nightmill
from tests.end_to_end.processes import until
from tests.factories import make_batch


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A PostgreSQL of the test's own, with a batch that waits."""
    url = start_postgres(tmp_path / "postgres")
    engine = connect(url)
    migrations.upgrade(engine)
    make_batch(engine, 2)
    engine.dispose()
    yield settings.model_copy(update={"database_url": SecretStr(url)})
    stop_postgres(tmp_path / "postgres")


def begun(process: subprocess.Popen[str], server: psutil.Process) -> bool:
    """Whether a command is connected."""
    names = [" ".join(child.cmdline()) for child in server.children()]
    assert process.poll() is None
    return sum("idle" in name and "postgres postgres" in name for name in names) >= 2


def test_following_goes_on_after_an_outage(own: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    nightmill = Nightmill(own, tmp_path)
    server = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
    commands = [nightmill.start("feed", "--follow"), nightmill.start("status", "--watch")]
    try:
        until(lambda: all(begun(command, server) for command in commands))
        server.send_signal(signal.SIGINT)
        until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
        for command in commands:
            assert command.stderr is not None
            assert "PostgreSQL is away; waiting up to 300 s" in read_until(command, "waiting up to")
        start_postgres(folder)
        back = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        until(lambda: all(begun(command, back) for command in commands))
    finally:
        for command in commands:
            command.send_signal(signal.SIGINT)
            command.communicate(timeout=150)
    assert [command.returncode for command in commands] == [130, 130]


def read_until(command: subprocess.Popen[str], words: str) -> str:
    """The line of standard error with these words; the test's time limit ends what never comes."""
    assert command.stderr is not None
    return next((line for line in command.stderr if words in line), "")
