"""Junk in Redis, of every kind: the worker lives on, needs no more memory, and work goes on. Nothing is put back."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.services.redis import start_redis, stop_redis
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import Mill, mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.wakeup_junk import HEEDED, JUNK, bomb
from tests.worker.contexts import submit

JOBS = scaled(40, 400)
ROUNDS = scaled(1, 20)
HUGE = {"50 MB": b"x" * 50_000_000, "a bomb": bomb(scaled(64, 1024))}
GROWTH = 20_000_000

pytestmark = pytest.mark.timeout(scaled(300, 3600))


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A Redis of its own, and workers that live from wake-up to wake-up."""
    url = SecretStr(start_redis(tmp_path / "redis"))
    yield settings.model_copy(
        update={"broker_url": url, "batch_size": 4, "claim": 8, "time_slice_s": 1, "lease_s": 5}
    )
    stop_redis(tmp_path / "redis")


@pytest.fixture
def client(quick: Settings) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=unquote(quick.broker.partition("://")[2])) as client:
        yield client


def length(client: redis.Redis, settings: Settings) -> int:
    return int(client.llen(settings.queue))


def push(client: redis.Redis, settings: Settings, junk: dict[str, bytes]) -> None:
    """Before all that waits: workers take from the right."""
    for message in junk.values():
        client.rpush(settings.queue, message)


def most_memory(running: Mill) -> dict[int, int]:
    """The largest resident set of the worker, its children and the scheduler since they began, in bytes."""
    processes = [*running.workers(), *running.children(), *running.schedulers()]
    return {process.pid: _most_memory(process.pid) for process in processes}


def _most_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_whatever_is_in_the_list(
    quick: Settings, engine: Engine, tmp_path: Path, client: redis.Redis
) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS))
    push(client, quick, JUNK | HEEDED)
    client.sadd(f"_kombu.binding.{quick.queue}", "junk", "\x06\x16")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.05, longest_s=0) as running:
        until(running.renders)
        (worker,) = running.workers()
        schedulers = [process.pid for process in running.schedulers()]
        before = most_memory(running)
        for _ in range(ROUNDS):
            push(client, quick, JUNK | HEEDED | HUGE)
            until(lambda: length(client, quick) <= 1)
        after = most_memory(running)
        assert settle(engine, quiet_s=30), running.log()[-3000:]
        assert worker.is_running()
        assert worker.status() != psutil.STATUS_ZOMBIE
        assert [process.pid for process in running.schedulers()] == schedulers
        log = running.log()
    grown = {pid: after[pid] - most for pid, most in before.items()}
    print(
        f"largest resident sets {[most // 1_000_000 for most in after.values()]} MB, grown by {grown.values()}"
    )
    assert after.keys() == before.keys()
    assert max(grown.values()) < GROWTH
    assert "Traceback" not in log
    for reason in (
        "longer than 8192 bytes",
        "message is not JSON",
        "not an object",
        "another task",
        "body is not base64",
    ):
        assert log.count(f"nightmill's: {reason}") == 1, reason
    assert not client.exists("unacked", "unacked_index")
    facts = check(engine, batch.name, places=[(row, 0) for row in range(JOBS)])
    assert (facts.states, facts.attempts) == ({"done": JOBS}, JOBS)


def test_twin_with_the_plain_channel_dies_of_it(
    quick: Settings, engine: Engine, tmp_path: Path, client: redis.Redis
) -> None:
    submit(quick, engine, tmp_path, foxes(JOBS))
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.05, longest_s=0, twin="plain-channel") as running:
        until(running.renders)
        (worker,) = running.workers()
        push(client, quick, {"null": JUNK["null"]})
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
