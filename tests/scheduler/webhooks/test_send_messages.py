"""Messages reach receivers signed, are tried again, and one receiver's trouble is nobody else's."""

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate

import pytest
from sqlalchemy import Engine
from standardwebhooks import WebhookVerificationError

from jobs.db.engine import transact
from jobs.outbound_http import bounded_http_post
from jobs.webhooks import deliveries, registry
from jobs.webhooks.webhook_events import LONGEST, EventType, emit
from scheduler.webhooks.send_messages import Sender
from tests.end_to_end.processes import until
from tests.factories import change, look
from tests.receiver import Receiver, receiving


@pytest.fixture(autouse=True)
def _no_thread_outlives_the_engine(engine: Engine) -> Iterator[None]:
    """Senders whose receivers hang end when those are released; what they write then needs the engine."""
    yield
    join_senders()
    del engine


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def add(engine: Engine, receiver: Receiver, *events: str) -> tuple[int, str]:
    return registry.add(engine, receiver.url, list(events) or None, allows_private=True)


def queue(engine: Engine, what: str = "1", event: EventType = EventType.BATCH_ENDED) -> int:
    return transact(engine, lambda connection: emit(connection, event, what, {"batch": what}))


def make_due(engine: Engine) -> None:
    change(engine, "UPDATE webhook_deliveries SET next_try_at = now() WHERE state = 'pending'")


def send(engine: Engine, sender: Sender | None = None) -> None:
    """One round, until its threads have ended."""
    (sender or Sender(engine)).round()
    join_senders()


def join_senders() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("webhook-"):
            thread.join(150)


def ends(engine: Engine) -> list[tuple[str, int, int | None, str | None]]:
    rows = look(engine, "SELECT state, attempts, status, error FROM webhook_deliveries ORDER BY id")
    return [(row["state"], row["attempts"], row["status"], row["error"]) for row in rows]


class TestDelivered:
    def test_receivers_check_the_signature_with_their_own_library(
        self, engine: Engine, receiver: Receiver
    ) -> None:
        _, secret = add(engine, receiver)
        assert queue(engine, "nächtlich") == 1
        send(engine)
        (message,) = receiver.verified(secret)
        assert message.keys() == {"type", "timestamp", "data"}
        assert (message["type"], message["data"]) == ("batch.ended", {"batch": "nächtlich"})
        assert abs((datetime.fromisoformat(message["timestamp"]) - datetime.now(UTC)).total_seconds()) < 60
        ((headers, _),) = receiver.requests
        assert headers["content-type"] == "application/json"
        assert headers["webhook-id"].startswith("msg_")
        assert ends(engine) == [("delivered", 1, 204, None)]

    def test_a_forged_body_is_told_from_a_true_one(self, engine: Engine, receiver: Receiver) -> None:
        _, secret = add(engine, receiver)
        queue(engine)
        send(engine)
        headers, body = receiver.requests[0]
        receiver.requests[0] = headers, body.replace(b'"1"', b'"2"')
        with pytest.raises(WebhookVerificationError):
            receiver.verified(secret)

    def test_each_webhook_gets_what_it_wants_once(self, engine: Engine, receiver: Receiver) -> None:
        with receiving() as other:
            add(engine, receiver, "batch.late", "shard.sealed")
            add(engine, other)
            assert queue(engine, "1") == 1
            assert queue(engine, "1", EventType.BATCH_LATE) == 2
            assert queue(engine, "1", EventType.BATCH_LATE) == 0  # somebody else told of it already
            assert queue(engine, "2", EventType.SHARD_SEALED) == 2
            send(engine)
            assert (len(receiver.requests), len(other.requests)) == (2, 3)

    def test_who_is_added_later_is_not_told_of_before(self, engine: Engine, receiver: Receiver) -> None:
        before = datetime.now(UTC)
        time.sleep(0.01)
        add(engine, receiver)
        late = transact(
            engine, lambda connection: emit(connection, EventType.BATCH_ENDED, "1", {}, at=before)
        )
        assert late == 0

    def test_while_a_secret_is_rotated_both_are_good(self, engine: Engine, receiver: Receiver) -> None:
        number, old = add(engine, receiver)
        new = registry.rotate(engine, number, 3600)
        queue(engine)
        send(engine)
        assert len(receiver.verified(old)) == len(receiver.verified(new)) == 1
        assert len(receiver.requests[0][0]["webhook-signature"].split()) == 2
        change(engine, "UPDATE webhook_secrets SET expires_at = now() WHERE expires_at IS NOT NULL")
        queue(engine, "2")
        send(engine)
        assert len(receiver.verified(new)) == 2
        with pytest.raises(WebhookVerificationError):
            receiver.verified(old)

    def test_a_body_has_a_bound(self, engine: Engine, receiver: Receiver) -> None:
        _, secret = add(engine, receiver)
        data = {"batch": "night", "values": ["x" * 100] * 1000, "path": "y" * 5000}
        transact(engine, lambda connection: emit(connection, EventType.BATCH_SHORT, "1", data))
        send(engine)
        assert receiver.verified(secret)[0]["data"] == {"batch": "night"}
        assert len(receiver.requests[0][1]) < LONGEST


class TestFailed:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [(500, "answered 500"), (302, "answered 302, which isn't followed"), (404, "answered 404")],
    )
    def test_a_refused_message_is_tried_again_under_its_id(
        self, engine: Engine, receiver: Receiver, answer: int, error: str
    ) -> None:
        _, secret = add(engine, receiver)
        queue(engine)
        receiver.answer = answer
        send(engine)
        assert ends(engine) == [("pending", 1, answer, error)]
        send(engine)
        assert len(receiver.requests) == 1  # not yet
        receiver.answer = 200
        make_due(engine)
        send(engine)
        assert len(receiver.verified(secret)) == 2
        assert len(set(receiver.ids)) == 1
        assert ends(engine) == [("delivered", 2, 200, None)]

    def test_a_message_is_tried_for_a_day_and_then_dead(self, engine: Engine, receiver: Receiver) -> None:
        number, _ = add(engine, receiver)
        queue(engine)
        receiver.answer = 503
        pauses = []
        for _ in deliveries.RETRIES_S:
            send(engine)
            (row,) = look(
                engine, "SELECT extract(epoch FROM next_try_at - now())::float AS s FROM webhook_deliveries"
            )
            pauses.append(row["s"])
            make_due(engine)
        assert [
            wanted * 0.89 < pause < wanted * 1.11
            for wanted, pause in zip(deliveries.RETRIES_S, pauses, strict=True)
        ] == [True] * 6
        assert 20 * 3600 < list(accumulate(deliveries.RETRIES_S))[-1] * 1.1 < 24 * 3600
        send(engine)
        assert ends(engine) == [("dead", 7, 503, "answered 503")]
        receiver.answer = 200
        assert deliveries.replay(engine, number, None) == 1
        send(engine)
        assert ends(engine) == [("delivered", 1, 200, None)]
        assert len(set(receiver.ids)) == 1

    def test_410_ends_a_webhook(self, engine: Engine, receiver: Receiver) -> None:
        number, _ = add(engine, receiver)
        queue(engine, "1")
        queue(engine, "2")
        receiver.answer = 410
        send(engine)
        assert len(receiver.requests) == 1
        assert [end[0] for end in ends(engine)] == ["dead", "dead"]
        assert queue(engine, "3") == 0
        assert registry.webhooks(engine)[0]["ended_because"] == "answered 410 Gone"
        receiver.answer = 200
        assert deliveries.replay(engine, number, None) == 2
        send(engine)
        assert [end[0] for end in ends(engine)] == ["delivered", "delivered"]
        assert queue(engine, "4") == 1

    def test_without_leave_a_private_receiver_gets_nothing(self, engine: Engine, receiver: Receiver) -> None:
        add(engine, receiver)
        change(engine, "UPDATE webhooks SET allows_private = false")
        queue(engine)
        send(engine)
        assert receiver.requests == []
        assert "which isn't a public address" in (ends(engine)[0][3] or "")

    def test_secrets_are_never_logged(
        self, engine: Engine, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, secret = add(engine, receiver)
        queue(engine)
        receiver.answer = 500
        with caplog.at_level(logging.DEBUG):
            send(engine)
            claimed = deliveries.claim(engine, 0)
        assert "attempt 1: answered 500" in caplog.text
        assert claimed is None
        assert secret not in caplog.text
        assert "s3cret" not in caplog.text  # of the URL's query
        make_due(engine)
        assert secret not in repr(deliveries.claim(engine, 1))
        assert secret not in str(registry.webhooks(engine))


class TestSeveral:
    def test_a_receiver_that_hangs_holds_up_no_other(self, engine: Engine, receiver: Receiver) -> None:
        receiver.answer = lambda _: receiver.released.wait(30)
        add(engine, receiver)
        sender = Sender(engine)
        with receiving() as other:
            add(engine, other)
            for number in range(5):
                queue(engine, str(number))
                until(lambda: (sender.round(), len(other.requests) > number)[1])  # noqa: B023
        assert len(receiver.requests) == 1  # one at a time

    def test_several_schedulers_send_each_message_once(self, engine: Engine, receiver: Receiver) -> None:
        add(engine, receiver)
        for number in range(30):
            queue(engine, str(number))
        senders = [Sender(engine) for _ in range(4)]
        for sender in senders:
            sender.round()
        receiver.wait_for(30)
        for sender in senders:
            sender.wait(150)  # the last one has still to write down what was answered
        assert len(receiver.ids) == len(set(receiver.ids)) == 30
        assert {end[:2] for end in ends(engine)} == {("delivered", 1)}

    def test_what_a_killed_scheduler_had_claimed_is_sent_by_another(
        self, engine: Engine, receiver: Receiver
    ) -> None:
        number, _ = add(engine, receiver)
        queue(engine)
        lost = deliveries.claim(engine, number)
        assert lost is not None
        send(engine)
        assert receiver.requests == []
        make_due(engine)  # the lease has run out
        send(engine)
        deliveries.fail(engine, lost, "too late", None)
        assert ends(engine) == [("delivered", 2, 204, None)]
        assert deliveries.LEASE_S > 2 * bounded_http_post.TIMEOUT_S

    def test_ended_messages_are_forgotten_after_a_month(self, engine: Engine, receiver: Receiver) -> None:
        add(engine, receiver)
        queue(engine, "1")
        queue(engine, "2")
        send(engine)
        change(engine, "UPDATE webhook_deliveries SET ended_at = now() - interval '31 days' WHERE id = 1")
        assert deliveries.forget(engine) == 1
        assert len(ends(engine)) == 1
