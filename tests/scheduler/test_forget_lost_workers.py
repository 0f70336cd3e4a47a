"""Workers that are silent for an hour are forgotten and recorded as lost, unless nobody could have heard them."""

from sqlalchemy import Engine

from scheduler.forget_lost_workers import LostWorkers
from tests.factories import change, look


def silent(engine: Engine, **minutes: int) -> None:
    """Workers that were seen last so many minutes ago."""
    statement = (
        "INSERT INTO workers (name, device, seen_at) VALUES (:name, 'cpu', now() - make_interval(mins => :ago)) "
        "ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at"
    )
    for name, ago in minutes.items():
        change(engine, statement, name=name, ago=ago)


def names(engine: Engine) -> list[str]:
    return [row["name"] for row in look(engine, "SELECT name FROM workers ORDER BY 1")]


def test_workers_are_forgotten_after_an_hour(engine: Engine) -> None:
    silent(engine, now=0, lately=59, gone=61)
    lost = LostWorkers(engine)
    assert (lost.forget(), lost.forget()) == (0, 1)
    assert names(engine) == ["lately", "now"]
    assert look(engine, "SELECT worker, kind FROM worker_events") == [{"worker": "gone", "kind": "lost"}]


def test_an_outage_of_postgres_loses_nobody(engine: Engine) -> None:
    lost = LostWorkers(engine)
    silent(engine, one=0, other=0)
    assert lost.forget() == 0
    silent(engine, one=90, other=90)
    assert lost.forget() == 0, "it is the first look after the outage"
    silent(engine, one=0)
    assert (lost.forget(), names(engine)) == (1, ["one"])
