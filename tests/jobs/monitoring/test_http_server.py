"""The server answers its routes, takes small and quick requests only, and says why it can't listen."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from jobs.errors import ServiceError, UsageError
from jobs.monitoring import http_server
from jobs.monitoring.http_server import Answer, MonitoringServer, serve
from jobs.monitoring.listen_address import ListenAddress
from tests.scraping import free_address, get, listens


@pytest.fixture
def address() -> Iterator[str]:
    address = free_address()
    routes = {
        "/healthz": lambda _: Answer.text(200, "ok"),
        "/scale/": lambda rest: Answer(200, b'{"pool": "%s"}' % rest.encode(), "application/json"),
        "/broken": lambda _: Answer.text(1 // 0, ""),
        "/slow": lambda _: Answer.text(200 if not time.sleep(0.7) else 500, "at last"),
    }
    with MonitoringServer(ListenAddress.parse(address), routes) as server:
        server.start()
        yield address
        server.shutdown()


def say(address: str, request: bytes) -> bytes:
    """The whole answer to bytes of our own."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def test_it_answers_its_routes_and_no_others(address: str) -> None:
    assert get(address, "/healthz?verbose=1").body == "ok\n"
    assert get(address, "/scale/default").body == '{"pool": "default"}'
    assert get(address, "/healthz/more").status == 404
    assert get(address, "/../etc/passwd").body == "there are /healthz, /scale/, /broken, /slow\n"


def test_head_has_no_body_and_other_methods_are_refused(address: str) -> None:
    head = say(address, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert head.endswith(b"Content-Length: 3\r\n\r\n")
    assert say(address, b"POST /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 501 ")


def test_a_long_request_is_refused(address: str) -> None:
    assert b" 431 " in say(address, b"GET / HTTP/1.1\r\nCookie: " + b"x" * http_server.MOST_BYTES)


def test_a_slow_client_is_cut_off(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.3)
    began = time.monotonic()
    assert say(address, b"GET /healthz HT") == b""
    assert time.monotonic() - began < 5


@contextmanager
def slow_clients(address: str, count: int) -> Iterator[None]:
    """Clients that send a header line every 0.2 seconds, and connect again when they are cut off."""
    host, _, port = address.rpartition(":")
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            with suppress(OSError), socket.create_connection((host, int(port)), 10) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\n")
                while not ended.wait(0.2):
                    connection.sendall(b"X: y\r\n")

    clients = [threading.Thread(target=send) for _ in range(count)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        ended.set()
        for client in clients:
            client.join()


@pytest.mark.parametrize("count", [8, 32, 48])
def test_slow_clients_keep_nobody_from_an_answer(address: str, count: int) -> None:
    with slow_clients(address, count):
        time.sleep(0.5)
        assert [get(address, "/healthz").body for _ in range(40)] == ["ok\n"] * 40


@pytest.mark.parametrize("path", ["/healthz", "/slow"])
def test_a_hundred_requests_at_once_are_answered(address: str, path: str) -> None:
    with ThreadPoolExecutor(100) as clients:
        pages = list(clients.map(lambda _: get(address, path), range(100)))
    assert {page.status for page in pages} == {200}


def test_clients_that_say_nothing_are_cut_off_the_oldest_first(address: str) -> None:
    host, _, port = address.rpartition(":")
    silent = []
    for _ in range(http_server.MOST_REQUESTS):
        silent.append(socket.create_connection((host, int(port)), 10))
        time.sleep(0.02)
    assert listens(address)
    assert silent[0].recv(1) == b""
    silent[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert silent[-1].recv(12) == b"HTTP/1.0 200"
    for connection in silent:
        connection.close()


def test_an_error_in_a_route_ends_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert say(address, b"GET /broken HTTP/1.1\r\n\r\n") == b""
    assert "ZeroDivisionError" in caplog.text
    assert listens(address)


def test_a_port_in_use_is_said_and_is_no_end_for_a_part_of_a_run(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ServiceError, match=rf"NIGHTMILL_METRICS_ADDRESS: can't listen on {address}: .* in use"
    ):
        serve(address, {}, is_supervised=False)
    with caplog.at_level(logging.WARNING):
        serve(address, {}, is_supervised=True)
    assert "going on without metrics" in caplog.text


@pytest.mark.parametrize("elsewhere", ["192.0.2.1:9464", "nowhere.invalid:9464"])
def test_an_address_of_another_host_is_wrong_use(elsewhere: str) -> None:
    with pytest.raises(UsageError, match="NIGHTMILL_METRICS_ADDRESS: can't listen on"):
        serve(elsewhere, {}, is_supervised=True)


def test_without_an_address_nothing_is_begun() -> None:
    before = threading.active_count()
    serve(None, {}, is_supervised=False)
    assert threading.active_count() == before
