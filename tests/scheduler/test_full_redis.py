"""A Redis that refuses: full, or with something else under the queue's name."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.errors import ServiceError
from jobs.settings import Settings
from scheduler.check_redis import check_redis
from scheduler.send_wakeups import Dispatcher
from tests.console.conftest import Typed, write_lines
from tests.factories import make_lane
from tests.servers import redis_in


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings with a Redis of the test's own."""
    with redis_in(tmp_path / "redis") as url:
        yield settings.model_copy(update={"broker_url": SecretStr(url)})


@pytest.fixture
def client(own: Settings) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=unquote(own.broker.partition("://")[2])) as client:
        yield client


@pytest.fixture
def full(own: Settings, client: redis.Redis) -> Settings:
    """A Redis that takes no writes any more."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    return own


def test_a_full_redis_is_named(full: Settings, client: redis.Redis) -> None:
    with pytest.raises(ServiceError, match="Redis is full and takes no writes"):
        check_redis(full)
    client.config_set("maxmemory", "0")
    assert re.match(r"(redis|valkey) \d+\.\d+\.\d+ ", check_redis(full))
    assert client.keys() == [], "the probe leaves nothing"


def test_another_key_under_the_queues_name_is_named_and_left_alone(
    own: Settings, client: redis.Redis
) -> None:
    client.set(own.queue, "mine")
    with pytest.raises(ServiceError, match=f"the key {own.queue} in Redis is a string and no list"):
        check_redis(own)
    assert client.get(own.queue) == b"mine"


def test_the_scheduler_says_once_that_it_is_full_and_goes_on(
    full: Settings, engine: Engine, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    make_lane(engine, 2)
    dispatcher = Dispatcher(full, engine)
    assert [dispatcher.top_up() for _ in range(3)] == [0, 0, 0]
    assert caplog.text.count("can't send wake-ups: Redis is full") == 1
    client.config_set("maxmemory", "0")
    assert dispatcher.top_up() == 1
    dispatcher.close()


def test_status_and_doctor_name_it(full: Settings, engine: Engine, tmp_path: Path) -> None:
    typed = Typed(full, tmp_path)
    assert typed("submit", str(write_lines(tmp_path / "m.jsonl", [{"prompt": "a fox"}]))).code == 0
    for arguments in (("status", "m"), ("status",)):
        assert "no worker is woken: Redis is full" in typed(*arguments).err
    doctor = {check["check"]: check for check in typed("doctor", "--json").json}
    assert not doctor["Redis"]["ok"]
    assert "Redis is full" in doctor["Redis"]["finding"]
