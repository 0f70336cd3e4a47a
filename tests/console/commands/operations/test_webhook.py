"""`nightmill webhook`."""

import pytest
from sqlalchemy import Engine

from jobs.db.engine import transact
from jobs.webhooks.registry import shown
from jobs.webhooks.webhook_events import EventType, emit
from tests.console.conftest import Typed
from tests.factories import change, look
from tests.receiver import receiving

URL = "https://receiver.example/hooks?key=s3cret"


def test_a_webhook_is_added_listed_and_removed(typed: Typed, engine: Engine) -> None:
    added = typed("webhook", "add", URL, "--events", "batch.ended, batch.late")
    assert added.code == 0
    secret = added.out.strip()
    assert secret.startswith("whsec_")
    assert "it is shown once" in added.err
    listed = typed("webhook", "list", "--json")
    (webhook,) = listed.json
    assert (webhook["id"], webhook["events"]) == (1, ["batch.ended", "batch.late"])
    assert (webhook["pending"], webhook["delivered"], webhook["dead"]) == (0, 0, 0)
    for ended in (listed, typed("webhook", "list")):
        assert secret not in ended.out
        assert "s3cret" not in ended.out
        assert "https://receiver.example/hooks?…" in ended.out
    assert typed("webhook", "remove", URL).err == "webhook 1 is removed\n"
    assert typed("webhook", "list", "--json").json == []
    assert look(engine, "SELECT count(*) AS n FROM webhook_secrets") == [{"n": 0}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "receiver.example"), "must be https://host/path"),
        (("add", "http://receiver.example/"), "--allow-private takes http://"),
        (("add", "https://10.0.0.1/"), "10.0.0.1 isn't a public address"),
        (("add", "https://other.example/", "--events", "batch.endet"), "must be of batch.ended,"),
        (("add", "https://other.example/", "--events", "test"), "--events test"),
        (("add", URL), "is there already"),
        (
            ("test", "https://receiver.example/hook?key=s3cret"),
            "did you mean https://receiver.example/hooks?…?",
        ),
        (("remove", "7"), "no webhook 7"),
        (("rotate", "1", "--overlap", "soon"), "--overlap soon"),
        (("messages", "1", "--state", "lost"), "--state lost"),
        (("replay", "1", "--since", "soon"), "is no moment"),
        (("replay", "1", "--since", "2999-01-01"), "lies in the future"),
    ],
)
def test_wrong_use(typed: Typed, arguments: tuple[str, ...], said: str) -> None:
    assert typed("webhook", "add", URL).code == 0
    ended = typed("webhook", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "s3cret" not in ended.err
    assert "Traceback" not in ended.err


def test_a_test_message_is_sent_at_once(typed: Typed) -> None:
    with receiving() as receiver:
        secret = typed("webhook", "add", receiver.url, "--allow-private", "--json").json["secret"]
        assert typed("webhook", "test", receiver.url, "--json").json == {
            "webhook": 1, "status": 204, "error": None,
        }  # fmt: skip
        assert [message["type"] for message in receiver.verified(secret)] == ["test"]
        receiver.answer = 500
        ended = typed("webhook", "test", "1")
        assert (ended.code, ended.err.strip()) == (1, "not delivered: answered 500")
        receiver.answer, receiver.requests = 200, []
        rotated = typed("webhook", "rotate", "1", "--overlap", "1h", "--json").json["secret"]
        assert typed("webhook", "test", "1").code == 0
        assert receiver.verified(rotated) == receiver.verified(secret) != []
    ended = typed("webhook", "test", "1", "--json")
    assert (ended.code, ended.json["status"]) == (1, None)
    assert ended.json["error"] == "Connection refused"


def test_dead_messages_are_listed_and_replayed(typed: Typed, engine: Engine) -> None:
    typed("webhook", "add", URL)
    for what in ("1", "2"):
        transact(engine, lambda connection, what=what: emit(connection, EventType.BATCH_ENDED, what, {}))
    change(
        engine,
        "UPDATE webhook_deliveries SET state = 'dead', attempts = 7, next_try_at = NULL, ended_at = now(),"
        " error = 'answered 500' WHERE id = 1",
    )
    (dead,) = typed("webhook", "messages", URL, "--state", "dead", "--json").json
    assert (dead["event"], dead["attempts"], dead["error"]) == ("batch.ended", 7, "answered 500")
    assert "answered 500" in typed("webhook", "messages", URL).out
    assert typed("webhook", "list", "--json").json[0]["dead"] == 1
    assert typed("webhook", "replay", URL, "--json").json == {"webhook": 1, "queued": 1}
    assert {row["state"] for row in look(engine, "SELECT state FROM webhook_deliveries")} == {"pending"}


def test_what_was_delivered_is_replayed_from_a_moment_on(typed: Typed, engine: Engine) -> None:
    typed("webhook", "add", URL)
    for what in ("1", "2"):
        transact(engine, lambda connection, what=what: emit(connection, EventType.BATCH_ENDED, what, {}))
    change(engine, "UPDATE webhook_deliveries SET state = 'delivered', next_try_at = NULL, ended_at = now()")
    change(engine, "UPDATE webhook_deliveries SET created_at = '2026-01-01' WHERE id = 1")
    assert typed("webhook", "replay", "1", "--json").json["queued"] == 0
    assert typed("webhook", "replay", "1", "--since", "2026-02-01T00:00Z", "--json").json["queued"] == 1


def test_arguments_of_commands_are_not_shown() -> None:
    assert shown("curl -H 'Authorization: Bearer s3cret' https://example.com/?key=s3cret") == "curl …"
    assert shown("/opt/tell") == "/opt/tell"
    assert shown("mailto:ada@example.com,bob@example.com") == "mailto:ada@example.com,bob@example.com"


def test_messages_that_were_not_taken_are_asked_about(typed: Typed, engine: Engine) -> None:
    typed("webhook", "add", URL)
    transact(engine, lambda connection: emit(connection, EventType.BATCH_ENDED, "1:0", {"name": "foxes"}))
    asked = typed("webhook", "remove", "1")
    assert (asked.code, "this drops 1 message to webhook 1 that it hasn't taken yet" in asked.err) == (
        2,
        True,
    )
    assert typed("webhook", "remove", "1", "--yes", "--json").json == {"webhook": 1, "dropped": 1}
