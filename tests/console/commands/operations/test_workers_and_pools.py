"""`workers` and `pools`: what they print, what they refuse."""

import pytest
from sqlalchemy import Engine

from console.command_options import seconds
from jobs.errors import UsageError
from jobs.queue.worker_registry import WorkerReport, report_worker
from tests.command_line import Nightmill
from tests.console.conftest import Typed
from tests.factories import change


def test_a_pool_is_made_changed_shown_and_removed(typed: Typed) -> None:
    made = typed("pools", "set", "a100", "--models", "shapes,tiny-random", "--max-workers", "8", "--json")
    assert [(pool["name"], pool["models"]) for pool in made.json] == [
        ("a100", ["shapes", "tiny-random"]),
        ("default", None),
    ]
    changed = typed(
        "pools",
        "set",
        "a100",
        "--max-workers",
        "none",
        "--idle",
        "90s",
        "--target",
        "1h30m",
        "--start",
        "0",
        "--json",
    ).json[0]
    assert (changed["models"], changed["max_workers"]) == (["shapes", "tiny-random"], None)
    assert (changed["idle_s"], changed["target_s"], changed["start_s"]) == (90, 5400, 0)
    assert typed("pools", "set", "a100", "--models", "all", "--json").json[0]["models"] is None
    shown = typed("pools")
    assert "a100" in shown.out
    assert "all" in shown.out
    assert typed("pools", "remove", "a100").code == 2, "it asks, and nobody answers"
    assert [pool["name"] for pool in typed("pools", "remove", "a100", "--yes", "--json").json] == ["default"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pools", "set", "a100"), "say what to set: --models"),
        (("pools", "set", "A 100", "--idle", "5m"), "pool 'A 100': must begin with a small letter"),
        (("pools", "set", "a100", "--models", "shape"), "shapes"),
        (("pools", "set", "a100", "--models", ","), "--models ,: names no model"),
        (("pools", "set", "a100", "--max-workers", "-1"), "--max-workers -1: a number of workers, or `none`"),
        (("pools", "set", "a100", "--idle", "5 minutes"), "--idle 5 minutes: a length of time, as in 90, 5m"),
        (("pools", "set", "a100", "--target", "0"), "--target 0: must be more than 0"),
        (("pools", "set", "a100", "--idle", "3000000d"), "--idle 3000000d: at most 36,500 days"),
        (("pools", "set", "a100", "--idle", "300d"), "a pool's idle time is at most 116 days"),
        (("pools", "set", "a100", "--max-workers", "99999999999999"), "a pool has at most 100,000 workers"),
        (("tenants", "set", "ada", "--max-running", "99999999999"), "between 0 and 1,000,000,000"),
        (("archive", "--older-than", "30"), "30: a length of time, as in 90s, 5m"),
        (("pools", "remove", "b100"), "no pool 'b100'"),
        (("pools", "remove", "b100", "--yes"), "no pool 'b100'"),
        (("pools", "remove", "default", "--yes"), "the pool 'default' stays"),
        (("worker", "--max-time", "7:50"), "--max-time 7:50: a length of time"),
        (("worker", "--until-idle", "0"), "NIGHTMILL_UNTIL_IDLE_S: must be more than 0"),
    ],
)
def test_wrong_use_is_told(typed: Typed, arguments: tuple[str, ...], message: str) -> None:
    ended = typed(*arguments)
    assert ended.code == 2, ended.err
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool", "b100"), "no pool 'b100'"),
        (("--models", "shapes"), "pool 'default' serves all models, not shapes"),
    ],
)
def test_a_worker_of_no_such_pool_is_told(
    nightmill: Nightmill, arguments: tuple[str, ...], message: str
) -> None:
    """By the worker's own process, which takes the place of the command's."""
    ended = nightmill("worker", *arguments)
    assert ended.code == 2, ended.err
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_workers_are_shown_with_what_ails_them(typed: Typed, engine: Engine) -> None:
    assert "no worker" in typed("workers").err
    assert typed("workers", "--json").json == []
    report_worker(engine, WorkerReport("host-1:12", "cuda:0", "default"))
    change(
        engine,
        "UPDATE workers SET state = 'unhealthy', reason = 'no disk', since = now() - interval '5 minutes'",
    )
    shown = typed("workers")
    assert "unhealthy" in shown.out
    assert "worker host-1:12 is unhealthy: no disk" in shown.err
    (worker,) = typed("workers", "--json").json
    assert (worker["host"], worker["state"], worker["reason"]) == ("host-1", "unhealthy", "no disk")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5", 1.5),
        ("5m", 300),
        ("7h50m", 28_200),
        ("1d12h", 129_600),
        ("1h30s", 3630),
    ],
)
def test_lengths_of_time(text: str, found: float) -> None:
    assert seconds("--idle", text) == found


@pytest.mark.parametrize("text", ["-5", "m", "5m7h", "1e3", "5 m", "h", "1h30"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=f"--idle {text}: a length of time"):
        seconds("--idle", text)
