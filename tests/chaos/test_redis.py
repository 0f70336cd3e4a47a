"""Redis forgets everything, dies, freezes: no job is lost, no command hangs, and work goes on soon after it is back.

Workers live from wake-up to wake-up here; otherwise one that is in a long lane wouldn't even notice.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest, until
from tests.factories import look
from tests.worker.contexts import submit

FLUSHES, RESTARTS, FROZEN_S = scaled(3, 20), scaled(2, 10), scaled(6, 60)
JOBS = scaled(240, 6000)
BACK_S = 10

pytestmark = pytest.mark.timeout(scaled(300, 3600))


@dataclass(frozen=True)
class OwnRedis:
    """A Redis that may be killed and frozen."""

    folder: Path

    def start(self) -> str:
        """Start it, where it isn't running; its URL."""
        return start_redis(self.folder)

    def process(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(int((self.folder / "redis.pid").read_text()))

    def flush(self) -> None:
        """Let it forget everything."""
        with redis.Redis(unix_socket_path=unquote(self.start().partition("://")[2])) as client:
            client.flushall()

    def kill(self) -> None:
        """SIGKILL."""
        process = self.process()
        process.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    own = OwnRedis(tmp_path / "redis")
    yield own
    stop_redis(own.folder)


@pytest.fixture
def quick(settings: Settings, own_redis: OwnRedis) -> Settings:
    """Time slices of a second."""
    url = SecretStr(own_redis.start())
    return settings.model_copy(
        update={"broker_url": url, "batch_size": 4, "claim": 8, "time_slice_s": 1, "lease_s": 5}
    )


def resumed(engine: Engine) -> float:
    """Wait for the next claim; how many seconds it took."""
    began = time.monotonic()
    (now,) = look(engine, "SELECT now() AS moment")
    until(
        lambda: look(engine, "SELECT FROM jobs WHERE started_at > :moment LIMIT 1", moment=now["moment"]), 60
    )
    return time.monotonic() - began


def test_whatever_redis_does(quick: Settings, engine: Engine, tmp_path: Path, own_redis: OwnRedis) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS))
    waits = []
    with mill(quick, tmp_path / "mill", step_s=0.1, longest_s=0) as running:
        until(running.renders)
        for _ in range(FLUSHES):
            time.sleep(random.uniform(0, 1))
            own_redis.flush()
            waits.append(resumed(engine))
        for _ in range(RESTARTS):
            own_redis.kill()
            time.sleep(random.uniform(0, scaled(2, 40)))
            own_redis.start()
            waits.append(resumed(engine))
        own_redis.process().suspend()
        frozen = time.monotonic()
        submitted = Nightmill(quick, tmp_path)("submit", manifest(tmp_path, foxes(4)))
        assert submitted.code == 0, submitted.err
        time.sleep(max(0.0, frozen + FROZEN_S - time.monotonic()))
        own_redis.process().resume()
        waits.append(resumed(engine))
        print("seconds until the next claim:", [round(wait, 1) for wait in waits])
        assert max(waits) <= BACK_S
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    for name, jobs in ((batch.name, JOBS), ("foxes", 4)):
        facts = check(engine, name, places=[(row, 0) for row in range(jobs)])
        assert (facts.states, facts.attempts) == ({"done": jobs}, jobs)


def test_wakeups_that_are_sent_once_are_lost(
    quick: Settings, engine: Engine, tmp_path: Path, own_redis: OwnRedis
) -> None:
    batch = submit(quick, engine, tmp_path, foxes(40))
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.1, longest_s=0, twin="wakeup-once") as running:
        until(running.renders)
        own_redis.flush()
        assert not settle(engine, quiet_s=3)
    with pytest.raises(AssertionError, match="is queued"):
        check(engine, batch.name)
