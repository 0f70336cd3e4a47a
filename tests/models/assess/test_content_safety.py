"""The content-safety service over HTTP: requests, answers, time limits, retries, circuit breaker."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from unittest.mock import patch

import cv2
import numpy as np
import pytest

from models.assess import content_safety
from models.assess.content_safety import CATEGORIES, ContentSafetyService
from models.errors import ContentSafetyError, SafetyUnknownError
from tests.content_safety_server import KEY, Request, Service, content_safety_server

GREY = np.full((96, 160, 3), 128, np.uint8)


@pytest.fixture
def server() -> Iterator[Service]:
    with content_safety_server() as service:
        yield service


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that the client made, none of which is waited for."""
    return []


@pytest.fixture
def client(server: Service, pauses: list[float]) -> Iterator[ContentSafetyService]:
    service = ContentSafetyService(f"{server.url}/", KEY, lambda seconds: pauses.append(seconds) or False)  # type: ignore[func-returns-value]
    yield service
    service.close()


def test_an_image_is_rated_by_category(server: Service, client: ContentSafetyService) -> None:
    server.rate = lambda _: {"Violence": 4, "Sexual": 2}
    assert client.rate_image(GREY) == {"Hate": 0.0, "SelfHarm": 0.0, "Sexual": 2.0, "Violence": 4.0}
    (request,) = server.requests
    assert request.body["categories"] == list(CATEGORIES)
    assert request.body["outputType"] == "FourSeverityLevels"
    assert isinstance(request.content, bytes)
    sent = cv2.imdecode(np.frombuffer(request.content, np.uint8), cv2.IMREAD_COLOR)
    assert sent is not None
    assert sent.shape == GREY.shape
    assert abs(int(sent.mean()) - 128) <= 1


@pytest.mark.parametrize(
    ("size", "sent"),
    [((1024, 1024), (1024, 1024)), ((3000, 1500), (1024, 512)), ((8, 8), (64, 64)), ((4000, 40), (1024, 64))],
)
def test_images_are_sent_in_sizes_that_the_service_takes(
    server: Service, client: ContentSafetyService, size: tuple[int, int], sent: tuple[int, int]
) -> None:
    red = np.zeros((*size, 3), np.uint8)
    red[..., 0] = 200
    client.rate_image(red)
    content = server.requests[0].content
    assert isinstance(content, bytes)
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    assert found.shape[:2] == sent
    assert found[..., 2].mean() > 190
    assert found[..., 0].mean() < 20


def test_of_a_long_prompt_the_severest_part_counts(server: Service, client: ContentSafetyService) -> None:
    server.rate = lambda request: {"Hate": 6} if "bad" in request.content else {"Violence": 2}  # type: ignore[operator]
    assert client.rate_prompt("a" * 10_000 + "bad") == {
        "Hate": 6.0,
        "SelfHarm": 0.0,
        "Sexual": 0.0,
        "Violence": 2.0,
    }
    assert [len(request.content) for request in server.requests] == [10_000, 3]
    assert client.rate_prompt(" ") == dict.fromkeys(CATEGORIES, 0.0)
    assert len(server.requests) == 2


def test_faults_that_pass_are_retried(
    server: Service, client: ContentSafetyService, pauses: list[float]
) -> None:
    for status in (503, 500, 408):
        server.error(status, "Busy")
    assert client.rate_prompt("a fox") == dict.fromkeys(CATEGORIES, 0.0)
    assert pauses == [0.5, 1.0, 2.0]
    for _ in range(4):
        server.error(503, "Busy")
    with pytest.raises(ContentSafetyError, match="answers 503: Busy: told by the service"):
        client.rate_prompt("a fox")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"<html>",
        b"[" * 100_000,
        b'{"categoriesAnalysis": 3}',
        b'{"categoriesAnalysis": [{"category": "Hate"}]}',
        json.dumps(
            {"categoriesAnalysis": [{"category": name, "severity": 0} for name in CATEGORIES[1:]]}
        ).encode(),
        *(
            json.dumps(
                {"categoriesAnalysis": [{"category": name, "severity": wrong} for name in CATEGORIES]}
            ).encode()
            for wrong in (True, None, "0", 0.5, -1, 8, [])
        ),
    ],
)
def test_what_is_no_full_answer_counts_as_none(
    server: Service, client: ContentSafetyService, answer: bytes
) -> None:
    server.answers += [(200, answer, {})] * 3
    assert client.rate_image(GREY)["Hate"] == 0, "asked again"
    server.answers += [(200, answer, {})] * 4
    with pytest.raises(ContentSafetyError, match="answers without a severity for each category"):
        client.rate_image(GREY)


def test_a_service_that_is_busy_is_waited_for(
    server: Service, client: ContentSafetyService, pauses: list[float]
) -> None:
    for _ in range(3):
        server.error(429, "429", Retry_After="7")
    server.error(429, "429", Retry_After="soon")
    server.error(429, "429", Retry_After="86400")
    assert client.rate_image(GREY)["Hate"] == 0
    assert pauses == [7.0, 7.0, 7.0, 1.0, 15.0]


def test_a_stop_ends_the_waiting(server: Service) -> None:
    server.error(429, "429")
    stopping = ContentSafetyService(server.url, KEY, lambda _: True)
    with (
        closing(stopping),
        pytest.raises(ContentSafetyError, match="was busy when this worker was told to stop"),
    ):
        stopping.rate_image(GREY)


def test_what_the_service_refuses_is_the_images_own_fault(
    server: Service, client: ContentSafetyService
) -> None:
    server.error(400, "InvalidImageSize", "The image\nis too small.")
    with pytest.raises(
        SafetyUnknownError, match=r"refuses this image: InvalidImageSize: The image is too small\."
    ):
        client.rate_image(GREY)
    assert client.rate_image(GREY)["Hate"] == 0  # the circuit isn't broken by it


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, r"refuses the key of NIGHTMILL_CONTENT_SAFETY_KEY \(401: Denied: told by the service\)"),
        (403, "refuses the key"),
        (404, "isn't at the address of NIGHTMILL_CONTENT_SAFETY_URL"),
        (418, "answers 418: Denied: told by the service"),
    ],
)
def test_what_needs_a_person_is_not_retried(
    server: Service, client: ContentSafetyService, pauses: list[float], status: int, reason: str
) -> None:
    server.error(status, "Denied")
    with pytest.raises(ContentSafetyError, match=reason) as caught:
        client.check()
    assert server.url in str(caught.value)
    assert KEY not in str(caught.value)
    assert pauses == []


def test_a_redirect_is_not_followed(server: Service, client: ContentSafetyService) -> None:
    with content_safety_server() as other:
        server.answers.append((307, b"", {"Location": f"{other.url}/contentsafety/image:analyze"}))
        with pytest.raises(ContentSafetyError, match="answers 307"):
            client.rate_image(GREY)
        assert other.requests == []


def test_after_failures_all_fail_at_once_until_a_trial_succeeds(
    server: Service, client: ContentSafetyService, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_safety, "_BREAK_S", 3600.0)
    monkeypatch.setattr(content_safety, "_LONGEST_BREAK_S", 3600.0)
    server.is_down = True
    with pytest.raises(ContentSafetyError, match="doesn't answer"):
        client.rate_image(GREY)
    assert pauses == [0.5, 1.0, 2.0]
    server.is_down = False
    with pytest.raises(ContentSafetyError, match="doesn't answer"):
        client.rate_image(GREY)
    assert server.requests == []
    later = time.monotonic() + 3601
    with patch.object(content_safety.time, "monotonic", lambda: later):
        server.error(503, "Busy")
        with pytest.raises(ContentSafetyError, match="answers 503"):
            client.rate_image(GREY)  # the trial, once
        assert len(server.requests) == 1
        with pytest.raises(ContentSafetyError, match="answers 503"):
            client.rate_image(GREY)
        assert len(server.requests) == 1
    latest = later + 7201
    with patch.object(content_safety.time, "monotonic", lambda: latest):
        assert client.rate_image(GREY)["Hate"] == 0
        assert client.rate_image(GREY)["Hate"] == 0
    assert len(server.requests) == 3


def test_a_probe_is_let_through_and_those_that_fail_together_count_once(
    server: Service, client: ContentSafetyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_safety, "_LONGEST_BREAK_S", 3600.0)
    together = threading.Barrier(6)

    def fails(request: Request) -> tuple[int, bytes, dict[str, str]]:
        together.wait(60)
        return 403, b"", {}

    server.answer, plain = fails, server.answer  # type: ignore[method-assign]
    threads = [threading.Thread(target=suppressed, args=(client.rate_image, GREY)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    server.answer = plain  # type: ignore[method-assign]
    assert client._breaker._failures == 1
    client.check()
    assert client.rate_image(GREY)["Hate"] == 0


def suppressed(call: Callable[..., object], *given: object) -> None:
    with suppress(ContentSafetyError):
        call(*given)


def test_while_a_trial_goes_on_the_others_fail_at_once(server: Service, client: ContentSafetyService) -> None:
    server.error(403, "Denied")
    with pytest.raises(ContentSafetyError):
        client.rate_image(GREY)
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: object) -> dict[str, int]:
        entered.set()
        go_on.wait(60)
        return {}

    server.rate = slow
    trial = threading.Thread(target=client.check)
    trial.start()
    assert entered.wait(60)
    with pytest.raises(ContentSafetyError, match="refuses the key"):
        client.rate_image(GREY)
    go_on.set()
    trial.join(60)
    assert client.rate_image(GREY)["Hate"] == 0


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n{"])
def test_a_service_that_never_finishes_its_answer_is_given_up(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_safety, "_ANSWER_S", 0.2)
    monkeypatch.setattr(content_safety, "_PAUSES_S", ())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 20)
                connection.sendall(sent)
                stopped.wait(60)

        stopped = threading.Event()
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            closing(ContentSafetyService(url, KEY, lambda _: False)) as client,
            pytest.raises(ContentSafetyError, match=r"doesn't answer \(ReadTimeout"),
        ):
            client.rate_image(GREY)
        stopped.set()


def test_an_answer_without_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, server: Service, client: ContentSafetyService
) -> None:
    monkeypatch.setattr(content_safety, "_PAUSES_S", ())
    server.answers.append((200, b"x" * (2 << 20), {}))
    with pytest.raises(ContentSafetyError, match="its answer is too long"):
        client.rate_image(GREY)


def test_nobody_listening_is_told_with_the_address() -> None:
    with (
        closing(ContentSafetyService("http://127.0.0.1:9", KEY, lambda _: False)) as client,
        pytest.raises(ContentSafetyError, match=r"http://127.0.0.1:9 doesn't answer \(ConnectError"),
    ):
        client.check()
