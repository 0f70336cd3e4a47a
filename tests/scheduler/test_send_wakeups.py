"""Wake-ups in Redis: as many as there are workers to follow them, and none that anything depends on."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.celery_config import WAKEUP_TASK
from jobs.errors import ServiceError
from jobs.services.sockets import socket_path
from jobs.settings import Settings
from scheduler.check_redis import check_redis
from scheduler.send_wakeups import Dispatcher
from tests.factories import change, lanes_of, make_batch, make_lane, take
from tests.scheduler.broker import Broker, body
from tests.servers import redis_in


@pytest.fixture
def dispatcher(settings: Settings, engine: Engine) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(settings, engine)
    yield dispatcher
    dispatcher.close()


def add_workers(engine: Engine, *ages_s: float) -> None:
    for number, age in enumerate(ages_s):
        change(
            engine,
            "INSERT INTO workers (name, device, seen_at) VALUES (:name, 'cpu', now() - make_interval(secs => :age))",
            name=f"w{number}",
            age=age,
        )


def test_one_wakeup_goes_out_for_the_worker_that_may_come(
    engine: Engine, dispatcher: Dispatcher, broker: Broker
) -> None:
    assert dispatcher.top_up() == 0, "nothing to do"
    lane = make_lane(engine, 5)
    assert dispatcher.top_up() == 1
    assert dispatcher.top_up() == 0
    assert broker.lanes() == [lane]


def test_there_are_as_many_wakeups_as_workers_alive(
    engine: Engine, dispatcher: Dispatcher, broker: Broker
) -> None:
    add_workers(engine, 0, 1, 2, 3600)
    lane = make_lane(engine, 5)
    assert dispatcher.top_up() == 3
    assert dispatcher.top_up() == 0
    broker.take()
    broker.take()
    assert dispatcher.top_up() == 2
    assert broker.lanes() == [lane] * 3


def test_a_message_names_a_lane_and_nothing_of_a_job(
    engine: Engine, dispatcher: Dispatcher, broker: Broker
) -> None:
    row = {"prompt": "a secret fox", "id": "row-77", "label": "red"}
    (lane,) = lanes_of(engine, make_batch(engine, [row] * 3, name="confidential"))
    dispatcher.top_up()
    (message,) = broker.waiting()
    arguments, named, options = body(message)
    assert (arguments, named) == ([lane], {})
    assert not any(options.values())
    assert message["headers"]["task"] == WAKEUP_TASK
    everything = json.dumps(message) + json.dumps(body(message))
    for word in ("secret", "row-77", "red", "confidential"):
        assert word not in everything


def test_a_flushed_redis_loses_nothing(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    lane = make_lane(engine, 2)
    with redis_in(tmp_path / "redis") as url:
        own = settings.model_copy(update={"broker_url": SecretStr(url)})
        dispatcher, broker = Dispatcher(own, engine), Broker(own)
        assert dispatcher.top_up() == 1
        broker.redis.flushall()
        assert dispatcher.top_up() == 1
        assert broker.lanes() == [lane]
        dispatcher.close()
        broker.redis.close()


def test_the_higher_priority_comes_first(engine: Engine, dispatcher: Dispatcher, broker: Broker) -> None:
    low, high, also_high = (make_lane(engine, 2, priority=priority) for priority in (-1, 5, 5))
    add_workers(engine, 0, 0, 0, 0, 0)
    dispatcher.top_up()
    assert broker.lanes() == [high, also_high, low, high, also_high]


def test_lanes_without_work_for_now_get_no_wakeup(
    engine: Engine, dispatcher: Dispatcher, broker: Broker
) -> None:
    add_workers(engine, 0, 0, 0, 0, 0, 0, 0)
    paused, cancelled = make_batch(engine, 2), make_batch(engine, 2)
    actions.pause(engine, paused.id)
    actions.cancel(engine, cancelled.id)
    running, waiting = make_lane(engine, 2), make_lane(engine, 2)
    take(engine, running)
    change(
        engine,
        "UPDATE jobs SET not_before = now() + interval '1 hour' WHERE lane_id = :lane",
        lane=waiting,
    )
    assert dispatcher.top_up() == 0
    actions.resume(engine, paused.id)
    assert dispatcher.top_up() == 7
    assert set(broker.lanes()) == set(lanes_of(engine, paused))


@contextmanager
def silent_server(path: Path) -> Iterator[None]:
    """Takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(8)
        yield


@pytest.fixture
def away(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose Redis isn't there."""
    path = socket_path(tmp_path_factory.mktemp("r") / "redis.sock")
    return settings.model_copy(update={"broker_url": SecretStr(f"redis+socket://{quote(str(path))}")})


def socket_of(settings: Settings) -> Path:
    return Path(unquote(settings.broker.removeprefix("redis+socket://")))


def test_no_redis_means_no_wakeups_until_it_comes(
    engine: Engine, away: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    lane = make_lane(engine, 2)
    dispatcher = Dispatcher(away, engine)
    assert dispatcher.top_up() == dispatcher.top_up() == 0
    assert caplog.text.count("can't send wake-ups: can't reach Redis") == 1
    with redis_in(socket_of(away).parent):
        assert dispatcher.top_up() == 1
        broker = Broker(away)
        assert broker.lanes() == [lane]
        broker.redis.close()
    socket_of(away).unlink(missing_ok=True)
    assert dispatcher.top_up() == 0, "it has gone again"
    with redis_in(socket_of(away).parent):
        assert dispatcher.top_up() == 1, "empty as it came back"
    dispatcher.close()


def test_a_redis_that_hangs_does_not_hang_the_scheduler(engine: Engine, away: Settings) -> None:
    make_lane(engine, 2)
    dispatcher = Dispatcher(away, engine)
    with silent_server(socket_of(away)):
        assert dispatcher.top_up() == 0
    dispatcher.close()


def test_the_version_of_redis_is_told_or_why_not(settings: Settings, away: Settings) -> None:
    assert re.match(r"(redis|valkey) \d+\.\d+\.\d+ ", check_redis(settings))
    with pytest.raises(ServiceError, match="can't reach Redis: "):
        check_redis(away)
