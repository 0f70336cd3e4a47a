"""`kill -9` of each process in turn: the batch is finished all the same, every job exactly once."""

from pathlib import Path

import psutil
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.command_line import Nightmill
from tests.end_to_end.processes import (
    check_exactly_once,
    child_of,
    command,
    descendants,
    foxes,
    gone,
    kill,
    manifest,
    named,
    said,
    until,
)
from tests.factories import look

ROWS = foxes(5, steps=30)


def images(engine: Engine) -> int:
    return len(look(engine, "SELECT 1 FROM images"))


def worker_of(cli: psutil.Process) -> psutil.Process:
    (worker,) = until(lambda: named(cli.children(), "worker"))
    return worker


def finish(cli: psutil.Popen, engine: Engine, settings: Settings, folder: Path) -> set[int]:
    assert cli.wait(100) == 0, said(folder)
    return check_exactly_once(engine, "foxes", settings.output).attempts()


def test_the_scheduler_the_child_that_renders_and_its_parent(
    slow: Settings, engine: Engine, tmp_path: Path
) -> None:
    with command(slow, tmp_path, "run", manifest(tmp_path, foxes(9, steps=30))) as cli:
        (scheduler,) = until(lambda: named(cli.children(), "scheduler"))
        kill(scheduler)
        until(lambda: images(engine) > 0)
        (again,) = until(lambda: named(cli.children(), "scheduler"))
        assert again.pid != scheduler.pid
        worker = worker_of(cli)
        child = child_of(worker)
        assert child is not None
        kill(child)
        before = images(engine)
        until(lambda: images(engine) > before)
        family = descendants(worker)
        kill(worker)
        attempts = finish(cli, engine, slow, tmp_path)
        assert gone([worker, child, *family])
    assert {2} <= attempts <= {1, 2, 3}
    crashed = look(engine, "SELECT outcome, error_kind FROM attempts")
    assert {(row["outcome"], row["error_kind"]) for row in crashed} == {("expired", "crash")}


def test_the_command_line(slow: Settings, engine: Engine, tmp_path: Path, nightmill: Nightmill) -> None:
    path = manifest(tmp_path, ROWS)
    with command(slow, tmp_path, "run", path) as cli:
        until(lambda: images(engine) > 0)
        family = descendants(cli)
        assert len(named(family, "worker")) == len(named(family, "scheduler")) == 1
        kill(cli)
        assert gone(family), "processes outlive the command that started them"
    assert not look(engine, "SELECT * FROM jobs WHERE state = 'running'")
    assert look(engine, "SELECT * FROM jobs WHERE state = 'queued'")
    ended = nightmill("run", path, "--json")
    assert ended.code == 0, ended.err
    assert 0 < ended.json["rendered"] < 5
    assert check_exactly_once(engine, "foxes", slow.output).attempts() == {1}


def test_a_worker_that_cannot_start_is_not_started_for_ever(slow: Settings, tmp_path: Path) -> None:
    own = slow.model_copy(update={"prompt_terms": tmp_path / "terms.txt"})
    with command(own, tmp_path, "run", manifest(tmp_path, ROWS)) as cli:
        assert cli.wait(50) == 1
    assert "Traceback" not in said(tmp_path)
    assert "the worker process can't start" in said(tmp_path)
    assert f"error: can't read the prompt terms in {tmp_path / 'terms.txt'}" in said(tmp_path)
