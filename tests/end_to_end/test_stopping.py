"""Ctrl-C, SIGTERM and a closed terminal at any moment: nothing is lost, nothing is charged, nothing is left behind."""

import random
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.command_line import Nightmill
from tests.end_to_end.processes import (
    check_exactly_once,
    command,
    descendants,
    foxes,
    gone,
    manifest,
    said,
    truth,
    until,
)
from tests.factories import lane_differences, look

ROWS = foxes(8, steps=40)


def running_jobs(engine: Engine) -> bool:
    return bool(look(engine, "SELECT 1 FROM jobs WHERE state = 'running'"))


def test_a_run_that_is_stopped_goes_on_later(
    slow: Settings, engine: Engine, tmp_path: Path, nightmill: Nightmill
) -> None:
    path = manifest(tmp_path, ROWS)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with command(slow, tmp_path, "run", path) as cli:
            until(lambda: running_jobs(engine))
            time.sleep(random.uniform(0, 2))
            family = descendants(cli)
            cli.send_signal(number)
            assert cli.wait(150) == code, said(tmp_path)
            assert gone(family, 3), "processes outlive the command that started them"
        assert "what isn't finished goes back to the queue, and the same command goes on from there" in said(
            tmp_path
        )
        assert "Traceback" not in said(tmp_path)
        stopped = truth(engine, "foxes")
        assert stopped.states() <= {"queued", "done"}
        assert {job["attempt"] for job in stopped.jobs if job["state"] == "queued"} <= {0}
        assert look(engine, "SELECT * FROM workers") == []
        assert look(engine, "SELECT * FROM attempts") == []
        assert lane_differences(engine) == []
    ended = nightmill("run", path, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["rendered"] == len(ROWS) - len(stopped.images)
    logged = (slow.logs_path / "worker-1.log").read_text(encoding="utf-8")
    assert "worker.tasks: " in logged, "what the child that renders says is in its worker's log"
    assert check_exactly_once(engine, "foxes", slow.output).attempts() == {1}


def test_before_any_worker_is_ready(slow: Settings, engine: Engine, tmp_path: Path) -> None:
    for pause, number in ((0, signal.SIGINT), (0.5, signal.SIGHUP), (1.5, signal.SIGTERM)):
        with command(slow, tmp_path, "run", manifest(tmp_path, ROWS)) as cli:
            until(lambda cli=cli: len(descendants(cli)) > 1)
            time.sleep(pause)
            family = descendants(cli)
            cli.send_signal(number)
            assert cli.wait(150) == 128 + number, said(tmp_path)
            assert gone(family, 3)
        assert "Traceback" not in said(tmp_path)
    assert truth(engine, "foxes").attempts() == {0}


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_a_process_in_the_foreground(
    settings: Settings, engine: Engine, tmp_path: Path, nightmill: Nightmill, role: str
) -> None:
    if role == "worker":
        assert nightmill("submit", manifest(tmp_path, foxes(2, steps=900))).code == 0
    with command(settings, tmp_path, role) as process:
        if role == "worker":
            until(lambda: look(engine, "SELECT * FROM workers"))
        else:
            until(lambda: "scheduling" in said(tmp_path))
        family = descendants(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(150) == 0
        assert gone(family, 3)
    assert "Traceback" not in said(tmp_path)
    assert look(engine, "SELECT * FROM workers") == []
