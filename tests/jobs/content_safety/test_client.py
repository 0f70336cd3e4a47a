"""The content-safety service over HTTP: requests, answers, time limits, retries, circuit breaker."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from jobs.content_safety import circuit_breaker, client
from jobs.content_safety.client import CATEGORIES, ContentSafetyService
from jobs.errors import ContentRefusedError, ContentSafetyError
from tests.content_safety_server import KEY, Request, Service, content_safety_server

IMAGE = b"\xff\xd8 an image's bytes"
SAFE = dict.fromkeys(CATEGORIES, 0.0)


class Pauses(list[float]):
    """The pauses that the client made, none of which is waited for; those of no length are left out."""

    def __call__(self, seconds: float) -> bool:
        if seconds:
            self.append(seconds)
        return False


@pytest.fixture
def server() -> Iterator[Service]:
    with content_safety_server() as service:
        yield service


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def service(server: Service, pauses: Pauses) -> ContentSafetyService:
    return ContentSafetyService(f"{server.url}/", KEY, pauses)


def test_an_image_is_rated_by_category(server: Service, service: ContentSafetyService) -> None:
    server.rate = lambda _: {"Violence": 4, "Sexual": 2}
    assert service.rate_image(IMAGE) == {"Hate": 0.0, "SelfHarm": 0.0, "Sexual": 2.0, "Violence": 4.0}
    (request,) = server.requests
    assert (request.kind, request.content) == ("image", IMAGE)
    assert request.body["categories"] == list(CATEGORIES)
    assert request.body["outputType"] == "FourSeverityLevels"


def test_of_a_long_prompt_the_severest_part_counts(server: Service, service: ContentSafetyService) -> None:
    server.rate = lambda request: {"Hate": 6} if "bad" in str(request.content) else {"Violence": 2}
    assert service.rate_prompt("a" * 10_000 + "bad") == SAFE | {"Hate": 6.0, "Violence": 2.0}
    assert [len(request.content) for request in server.requests] == [10_000, 3]
    assert service.rate_prompt(" ") == SAFE
    assert len(server.requests) == 2


def test_faults_that_pass_are_retried(server: Service, service: ContentSafetyService, pauses: Pauses) -> None:
    for status in (503, 500, 408):
        server.error(status, "Busy")
    assert service.rate_prompt("a fox") == SAFE
    assert pauses == [0.5, 1.0, 2.0]
    for _ in range(4):
        server.error(503, "Busy")
    with pytest.raises(ContentSafetyError, match=r"answers 503 \(Busy\)") as caught:
        service.rate_prompt("a fox")
    assert not caught.value.is_lasting


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
    server: Service, service: ContentSafetyService, answer: bytes
) -> None:
    server.answers += [(200, answer, {})] * 3
    assert service.rate_image(IMAGE) == SAFE, "asked again"
    server.answers += [(200, answer, {})] * 4
    with pytest.raises(ContentSafetyError, match="answers without a severity for each category"):
        service.rate_image(IMAGE)


def test_of_a_category_that_comes_twice_the_higher_severity_counts(
    server: Service, service: ContentSafetyService
) -> None:
    twice = [{"category": name, "severity": severity} for severity in (6, 0) for name in CATEGORIES]
    server.answers.append((200, json.dumps({"categoriesAnalysis": twice}).encode(), {}))
    assert service.rate_image(IMAGE) == dict.fromkeys(CATEGORIES, 6.0)


def test_a_service_that_takes_no_more_requests_is_waited_for(
    server: Service, service: ContentSafetyService, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(client.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(client, "_LONGEST_JITTER", 1.0)

    def pause(seconds: float) -> bool:
        now[0] += seconds
        return pauses(seconds)

    monkeypatch.setattr(service, "_pause", pause)
    for wait in ("7", "7", "soon", "86400"):
        server.error(429, "429", Retry_After=wait)
    assert service.rate_image(IMAGE) == SAFE
    assert pauses == [7.0, 7.0, 1.0, 15.0]


def test_a_stop_ends_the_waiting_and_begins_nothing(server: Service) -> None:
    stopped = ContentSafetyService(server.url, KEY, lambda _: True)
    with pytest.raises(ContentSafetyError, match="this worker was told to stop"):
        stopped.rate_image(IMAGE)
    assert server.requests == []


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_the_service_refuses_is_the_images_own_fault(
    server: Service, service: ContentSafetyService, status: int
) -> None:
    server.error(status, "InvalidImageSize", "The image of a red fox\nis too small.")
    with pytest.raises(ContentRefusedError) as caught:
        service.rate_image(IMAGE)
    assert str(caught.value).endswith(f"refuses this image: {status} (InvalidImageSize)")
    assert service.rate_image(IMAGE) == SAFE, "the circuit isn't broken by it"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, r"refuses the key of NIGHTMILL_CONTENT_SAFETY_KEY: 401 \(Denied\)"),
        (403, "refuses the key"),
        (404, "isn't at the address of NIGHTMILL_CONTENT_SAFETY_URL"),
        (418, r"answers 418 \(Denied\)"),
    ],
)
def test_what_needs_a_person_is_not_retried(
    server: Service, service: ContentSafetyService, pauses: Pauses, status: int, reason: str
) -> None:
    server.error(status, "Denied")
    with pytest.raises(ContentSafetyError, match=reason) as caught:
        service.check(images=True, prompts=False)
    assert server.url in str(caught.value)
    assert caught.value.is_lasting
    assert pauses == []


def test_what_the_service_says_is_not_told_as_it_may_repeat_the_prompt(
    server: Service, service: ContentSafetyService
) -> None:
    for code in (f"a red fox {KEY}", "x" * 41, "ok"):
        server.error(401, code, f"you sent 'a red fox' with the key {KEY}")
        with pytest.raises(ContentSafetyError) as caught:
            service.check(images=False, prompts=True)
        assert KEY not in str(caught.value)
        assert "red fox" not in str(caught.value)
    assert str(caught.value).endswith("401 (ok)")


def test_a_redirect_is_not_followed(server: Service, service: ContentSafetyService) -> None:
    with content_safety_server() as other:
        server.answers.append((307, b"", {"Location": f"{other.url}/contentsafety/image:analyze"}))
        with pytest.raises(ContentSafetyError, match="answers 307"):
            service.rate_image(IMAGE)
        assert other.requests == []


def test_no_proxy_of_the_environment_sees_the_key(
    server: Service, service: ContentSafetyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with content_safety_server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert service.rate_image(IMAGE) == SAFE
        assert (len(server.requests), proxy.requests) == (1, [])


def test_a_probe_asks_for_what_is_needed(server: Service, service: ContentSafetyService) -> None:
    service.check(images=True, prompts=False)
    service.check(images=False, prompts=True)
    assert [request.kind for request in server.requests] == ["image", "text"]
    assert server.requests[0].content[:2] == b"\xff\xd8"
    server.error(400, "InvalidImage")
    with pytest.raises(ContentSafetyError, match="refuses this image") as caught:
        service.check(images=True, prompts=False)
    assert caught.value.is_lasting


def test_after_failures_all_fail_at_once_until_a_trial_succeeds(
    server: Service, service: ContentSafetyService, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(circuit_breaker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(client.time, "monotonic", lambda: now[0])
    server.is_down = True
    with pytest.raises(ContentSafetyError, match="doesn't answer"):
        service.rate_image(IMAGE)
    assert pauses == [0.5, 1.0, 2.0]
    server.is_down = False
    with pytest.raises(ContentSafetyError, match="doesn't answer"):
        service.rate_image(IMAGE)
    assert server.requests == []
    assert service.rate_prompt("a fox") == SAFE, "prompts have a circuit of their own"
    now[0] += 1.1
    server.error(503, "Busy")
    with pytest.raises(ContentSafetyError, match="answers 503"):
        service.rate_image(IMAGE)  # the trial, which isn't repeated
    now[0] += 1.1
    with pytest.raises(ContentSafetyError, match="answers 503"):
        service.rate_image(IMAGE)
    assert len(server.of_kind("image")) == 1
    now[0] += 1.1
    assert service.rate_image(IMAGE) == service.rate_image(IMAGE) == SAFE


def test_a_probe_is_let_through_and_those_that_fail_together_count_once(
    server: Service, service: ContentSafetyService
) -> None:
    together = threading.Barrier(6)

    def fails(_: Request) -> tuple[int, bytes, dict[str, str]]:
        together.wait(60)
        return 403, b"", {}

    server.answer, plain = fails, server.answer  # type: ignore[method-assign]
    threads = [threading.Thread(target=suppressed, args=(service.rate_image, IMAGE)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    server.answer = plain  # type: ignore[method-assign]
    assert service._breakers["image"]._failures == 1
    service.check(images=True, prompts=False)
    assert service.rate_image(IMAGE) == SAFE


def test_while_a_trial_goes_on_the_others_fail_at_once(
    server: Service, service: ContentSafetyService
) -> None:
    server.error(403, "Denied")
    with pytest.raises(ContentSafetyError):
        service.rate_image(IMAGE)
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: object) -> dict[str, int]:
        entered.set()
        go_on.wait(60)
        return {}

    server.rate = slow
    trial = threading.Thread(target=lambda: service.check(images=True, prompts=False))
    trial.start()
    assert entered.wait(60)
    with pytest.raises(ContentSafetyError, match="refuses the key"):
        service.rate_image(IMAGE)
    go_on.set()
    trial.join(60)
    assert service.rate_image(IMAGE) == SAFE


def suppressed(call: Callable[..., object], *given: object) -> None:
    with suppress(ContentSafetyError):
        call(*given)


def drops(connection: socket.socket, stopped: threading.Event) -> None:
    """Send one header after the other, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    with suppress(OSError):
        while not stopped.wait(0.05):
            connection.sendall(b"X-More: 1\r\n")


def is_silent(_: socket.socket, stopped: threading.Event) -> None:
    stopped.wait(60)


def begins(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n{")
    stopped.wait(60)


@pytest.mark.parametrize("behave", [drops, is_silent, begins])
def test_a_service_that_never_finishes_its_answer_is_given_up(
    behave: Callable[[socket.socket, threading.Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.3)
    monkeypatch.setattr(client, "_PAUSES_S", ())
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 20)
                behave(connection, stopped)

        threading.Thread(target=serve, daemon=True).start()
        service = ContentSafetyService(f"http://127.0.0.1:{listener.getsockname()[1]}", KEY, Pauses())
        with pytest.raises(ContentSafetyError, match=r"doesn't answer: no answer within 0.3 s"):
            service.rate_image(IMAGE)
        stopped.set()


def test_an_answer_without_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, server: Service, service: ContentSafetyService
) -> None:
    monkeypatch.setattr(client, "_PAUSES_S", ())
    server.answers.append((200, b"x" * (2 << 20), {}))
    with pytest.raises(ContentSafetyError, match="its answer has more than"):
        service.rate_image(IMAGE)


def test_nobody_listening_is_told_with_the_address() -> None:
    service = ContentSafetyService("http://127.0.0.1:9", KEY, Pauses())
    with pytest.raises(ContentSafetyError, match=r"http://127.0.0.1:9 doesn't answer: Connection refused"):
        service.check(images=False, prompts=True)
