"""Hooks: commands, mails and URLs that are told once of a batch's end, whichever scheduler sees it."""

import json
import threading
from email import message_from_bytes
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine

from jobs.errors import UsageError
from jobs.queue import transitions
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.settings import Settings
from jobs.webhooks import deliveries, registry
from jobs.webhooks.batch_end_hooks import LONGEST, check_hook
from scheduler.ingest.ingest import Ingested
from scheduler.webhooks.compose_mail_about_a_batch import mail_message
from scheduler.webhooks.detect_events import Detector
from scheduler.webhooks.run_hook_command import WITHHELD, CommandError, run_hook_command
from scheduler.webhooks.send_messages import Sender
from scheduler.webhooks.send_test_message import send_test_message
from tests.end_to_end.processes import until
from tests.factories import change, image, lanes_of, look, make_batch, take
from tests.receiver import receiving

BODY = json.dumps(
    {"type": "batch.ended", "data": {"name": "foxes", "state": "done", "counts": {"done": 1_000}}}
)


def end(engine: Engine, batch: Ingested) -> None:
    transitions.complete(
        engine, [image(job) for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    )
    end_lanes(engine)


def with_hook(engine: Engine, hook: str, name: str = "foxes") -> Ingested:
    batch = make_batch(engine, 1, name=name, on_end=hook)
    end(engine, batch)
    return batch


def tell(engine: Engine, settings: Settings) -> None:
    """As two schedulers do, whose threads have ended afterwards."""
    for _ in range(2):
        Detector(engine, settings).look()
        Sender(engine, settings.sendmail).round()
    for thread in threading.enumerate():
        if thread.name.startswith("webhook-"):
            thread.join(60)


def sent(engine: Engine) -> list[dict[str, Any]]:
    return look(engine, "SELECT event, state, attempts, error FROM webhook_deliveries ORDER BY id")


@pytest.fixture
def trusting(settings: Settings) -> Settings:
    return settings.model_copy(update={"run_commands": "on"})


def test_a_batch_s_command_gets_the_message_once(engine: Engine, trusting: Settings, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with_hook(engine, f'echo "$NIGHTMILL_EVENT $NIGHTMILL_BATCH $NIGHTMILL_STATE" >> {told}; cat >> {told}')
    tell(engine, trusting)
    first, body = told.read_text().split("\n", 1)
    assert first == "batch.ended foxes done"
    assert json.loads(body)["data"]["counts"]["done"] == 1
    assert [(row["event"], row["state"], row["attempts"]) for row in sent(engine)] == [
        ("batch.ended", "delivered", 1)
    ]


def test_the_setting_is_told_of_all_batches_from_then_on(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"on_end": f"echo $NIGHTMILL_BATCH >> {tmp_path}/told"})
    end(engine, make_batch(engine, 1, name="before"))
    tell(engine, own)
    for name in ("foxes", "owls"):
        end(engine, make_batch(engine, 1, name=name))
    tell(engine, own)
    assert sorted((tmp_path / "told").read_text().split()) == ["foxes", "owls"]


def test_a_command_of_a_batch_is_not_run_where_the_scheduler_may_be_another_users(
    engine: Engine, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_hook(engine, f"touch {tmp_path}/told")
    tell(engine, settings)
    assert (sent(engine), (tmp_path / "told").exists()) == ([], False)
    assert "foxes: its hook isn't told: a batch may name no command here" in caplog.text


def test_a_command_that_fails_is_tried_again_with_what_it_said(engine: Engine, trusting: Settings) -> None:
    with_hook(engine, "echo the disk >&2; echo is full >&2; exit 3")
    tell(engine, trusting)
    (row,) = sent(engine)
    assert (row["state"], row["attempts"], row["error"]) == ("pending", 1, "exit code 3: the disk is full")


def test_a_command_gets_no_secret_that_it_has_no_use_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    withheld = {"CONTENT_SAFETY_KEY", "WATERMARK_KEY", "SIGNING_IDENTITY", "TIMESTAMP_URL"}
    assert {f"NIGHTMILL_{name}" for name in withheld} == WITHHELD, "a new secret: has a command a use for it?"
    for name in (*WITHHELD, "NIGHTMILL_DATABASE_URL"):
        monkeypatch.setenv(name, "a secret")
    run_hook_command(f"env | grep -o '^NIGHTMILL_[A-Z_]*=a secret' > {tmp_path}/found", BODY)
    assert (tmp_path / "found").read_text() == "NIGHTMILL_DATABASE_URL=a secret\n"


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="not done after 1 s, and killed"):
        run_hook_command(f"sleep 600 & echo $! > {tmp_path}/pid; wait", BODY, timeout_s=1)
    child = int((tmp_path / "pid").read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_mail_goes_to_all_addresses_by_the_program_of_the_setting(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/mail\n")
    program.chmod(0o755)
    with_hook(engine, "mailto:ada@example.com,bob@example.com")
    tell(engine, settings.model_copy(update={"sendmail": f"{program} -t -i"}))
    mail = message_from_bytes((tmp_path / "mail").read_bytes())
    assert mail["To"] == "ada@example.com, bob@example.com"
    assert mail["Subject"] == "nightmill: foxes ended, 1 done"
    assert "nightmill status foxes" in mail.get_payload()


def test_a_mail_s_subject_stays_one_line_whatever_the_counts() -> None:
    mail = mail_message(BODY, ["ada@example.com"])
    assert message_from_bytes(mail)["Subject"] == "nightmill: foxes ended, 1,000 done"


def test_a_mail_can_be_tried(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    with_hook(engine, "mailto:ada@example.com")
    tell(engine, settings.model_copy(update={"sendmail": "true"}))
    (hook,) = registry.webhooks(engine)
    outcome = send_test_message(engine, hook["id"], f"sh -c 'cat > {tmp_path}/mail'")
    mail = message_from_bytes((tmp_path / "mail").read_bytes())
    assert (outcome.error, mail["Subject"], mail.get_payload().split()) == (
        None, "nightmill: test", ["nightmill", "report"],
    )  # fmt: skip


def test_a_url_is_told_signed_and_becomes_a_webhook_by_adding_it(engine: Engine, trusting: Settings) -> None:
    with receiving() as receiver:
        with_hook(engine, receiver.url)
        tell(engine, trusting)
        assert [headers["webhook-signature"][:3] for headers, _ in receiver.requests] == ["v1,"]
        (listed,) = registry.webhooks(engine)
        assert (listed["is_hook"], listed["delivered"]) == (True, 1)
        _, secret = registry.add(engine, receiver.url, ["batch.ended"], allows_private=True)
        with_hook(engine, receiver.url, "owls")
        tell(engine, trusting)
        assert len(receiver.requests) == 2, "once as a webhook, and not again as a hook"
        receiver.requests.pop(0)
        assert receiver.verified(secret)[0]["data"]["name"] == "owls"


def test_a_stopped_batch_is_told_of(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    told = settings.model_copy(update={"on_end": f"cat > {tmp_path}/told"})
    tell(engine, told)
    make_batch(engine, 1, name="foxes")
    change(engine, "UPDATE batches SET paused_at = now(), stopped_because = '9 of 10 were blocked'")
    tell(engine, told)
    message = json.loads((tmp_path / "told").read_text())
    assert (message["type"], message["data"]["stopped_because"]) == ("batch.stopped", "9 of 10 were blocked")


def test_hooks_without_messages_are_forgotten(engine: Engine, trusting: Settings) -> None:
    with_hook(engine, "true")
    tell(engine, trusting)
    change(engine, "UPDATE webhook_deliveries SET ended_at = now() - interval '31 days'")
    change(engine, "UPDATE webhooks SET created_at = now() - interval '31 days'")
    assert deliveries.forget(engine) == 1
    assert registry.webhooks(engine) == []


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ("", "in one line"),
        (" true", "in one line"),
        ("a\nb", "in one line"),
        ("x" * (LONGEST + 1), "at most 2,000"),
        ("mailto:ada", "is no mail address"),
        ("mailto:ada@example.com,-oQ/tmp", "is no mail address"),
        ("http://example.com/x", "must be https"),
        ("https://10.0.0.1/x", "with a public address"),
        ("htps://example.com/x", "htps:// tells nobody"),
        ("rm -r x", "NIGHTMILL_RUN_COMMANDS=on"),
    ],
)
def test_what_is_no_hook_is_refused(hook: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_hook(hook, allows_commands=False)


def test_hooks_that_are_trusted_may_be_commands_and_at_home() -> None:
    for hook in ("touch x", "http://10.0.0.1/x", "mailto:a.b+c@example.com"):
        check_hook(hook, allows_commands=True)
