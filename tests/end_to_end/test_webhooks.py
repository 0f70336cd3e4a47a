"""Webhooks with the real processes: a `run` tells of its end, and a killed scheduler's messages are sent by another."""

from pathlib import Path

from sqlalchemy import Engine

from jobs.settings import Settings
from jobs.webhooks import registry
from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.console.conftest import Typed
from tests.end_to_end.processes import foxes, manifest, running, until
from tests.factories import change, look
from tests.receiver import receiving


def test_a_run_tells_of_its_end_before_it_ends(nightmill: Nightmill, engine: Engine, tmp_path: Path) -> None:
    with receiving() as receiver, stubbed(tmp_path):
        _, secret = registry.add(engine, receiver.url, ["batch.ended"], allows_private=True)
        ran = nightmill("run", manifest(tmp_path, foxes(3)))
        assert ran.code == 0, ran.err
        (message,) = receiver.verified(secret)
        assert (message["data"]["name"], message["data"]["counts"]["done"]) == ("foxes", 3)
        assert secret not in ran.out + ran.err


def test_what_a_killed_scheduler_was_sending_is_sent_by_another(
    settings: Settings, typed: Typed, engine: Engine, tmp_path: Path
) -> None:
    with receiving() as receiver:
        receiver.answer = lambda _: receiver.released.wait(60)
        _, secret = registry.add(engine, receiver.url, None, allows_private=True)
        assert typed("submit", manifest(tmp_path, foxes(1))).code == 0
        assert typed("cancel", "foxes").code == 0
        with running(settings, "scheduler") as (scheduler,):
            receiver.wait_for(1)
            scheduler.kill()
            scheduler.wait()
        receiver.answer = 204
        change(engine, "UPDATE webhook_deliveries SET next_try_at = now()")  # its lease has run out
        with running(settings, "scheduler"):
            until(lambda: look(engine, "SELECT state FROM webhook_deliveries") == [{"state": "delivered"}])
        first, second = receiver.verified(secret)
        assert first == second
        assert len(set(receiver.ids)) == 1
