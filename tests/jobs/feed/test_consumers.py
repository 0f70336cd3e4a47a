"""Consumers: one reader at a time, a cursor that only its reader moves, how far each is behind, and for whom."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from jobs.errors import UsageError
from jobs.feed import consumer_lag, consumers, feed
from jobs.feed.consumers import ConsumerBusyError, turn
from jobs.feed.feed import Cursor
from jobs.feed.feed_query import FeedQuery
from jobs.images.where_expression import Condition
from jobs.job_dataclasses import BatchId
from jobs.queue import transitions
from jobs.states import EventKind
from tests.end_to_end.processes import until
from tests.factories import change, failure, image, look, make_lane, take
from tests.jobs.feed.test_feed import settled

START = Cursor(0, 0, 0)


def finish(engine: Engine, jobs: int = 5) -> list[Cursor]:
    """Complete jobs one by one; returns the cursors after them."""
    for job in take(engine, make_lane(engine, jobs)):
        transitions.complete(engine, [image(job)])
    return [feed.parse_cursor(record["cursor"]) for record in settled(engine, jobs)]


def test_a_consumer_goes_on_from_what_it_has_acknowledged(engine: Engine) -> None:
    cursors = finish(engine)
    with turn(engine, "etl", FeedQuery()) as own:
        assert own.cursor == START
        own.acknowledge(cursors[1])
        own.acknowledge(cursors[1])
    with turn(engine, "etl", FeedQuery()) as own:
        assert own.cursor == cursors[1]
    (told,) = consumer_lag.consumers(engine)
    assert (told["name"], told["rows"], told["cursor"]) == ("etl", 3, str(cursors[1]))
    assert told["seconds"] > 0
    assert told["kinds"] == ["image"]


def test_a_consumer_keeps_to_what_it_reads_by(engine: Engine) -> None:
    """What another choice leaves out would be lost to it."""
    cursors = finish(engine)
    by_batch, all_kinds = FeedQuery(batch=BatchId(1)), FeedQuery(tuple(EventKind))
    by_row = FeedQuery(where=Condition("i.ordinal > :w0", {"w0": 3}))
    with turn(engine, "etl", FeedQuery()) as own:
        own.acknowledge(cursors[1])
    for other in (by_batch, all_kinds, by_row):
        with pytest.raises(
            UsageError, match=rf"other --events, .* `nightmill consumers --reset etl {cursors[1]}`"
        ):
            turn(engine, "etl", other).__enter__()
    consumers.reset(engine, "etl", cursors[1])
    with turn(engine, "etl", by_row) as own:
        own.acknowledge(cursors[2])
    with pytest.raises(UsageError, match="other --events"):
        turn(engine, "etl", FeedQuery(where=Condition("i.ordinal > :w0", {"w0": 4}))).__enter__()
    with turn(engine, "etl", by_row) as own:
        assert own.cursor == cursors[2]


def test_two_of_one_name_are_refused_and_two_names_are_not(engine: Engine) -> None:
    with turn(engine, "etl", FeedQuery()):
        with pytest.raises(ConsumerBusyError, match="another process is reading as the consumer etl"):
            turn(engine, "etl", FeedQuery()).__enter__()
        with turn(engine, "other", FeedQuery()):
            assert [row["reader_pid"] is not None for row in consumer_lag.consumers(engine)] == [
                True,
                True,
            ]
    with turn(engine, "etl", FeedQuery()):
        pass


def test_one_at_a_time_among_many(engine: Engine) -> None:
    cursors = finish(engine, 8)
    seen = []

    def read(_: int) -> None:
        try:
            with turn(engine, "etl", FeedQuery()) as own:
                place = cursors.index(own.cursor) + 1 if own.cursor in cursors else 0
                seen.append(place)
                own.acknowledge(cursors[place])
        except ConsumerBusyError:
            pass

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read, range(8)))
    assert seen == list(range(len(seen)))
    assert seen


def test_holding_the_turn_does_not_hold_back_the_feed(engine: Engine) -> None:
    with turn(engine, "etl", FeedQuery()):
        assert len(finish(engine, 3)) == 3


def test_a_cursor_that_was_moved_meanwhile_is_not_overwritten(engine: Engine) -> None:
    cursors = finish(engine)
    with turn(engine, "etl", FeedQuery()) as own:
        consumers.reset(engine, "etl", cursors[3])
        with pytest.raises(UsageError, match="was changed by somebody else"):
            own.acknowledge(cursors[1])
    with turn(engine, "etl", FeedQuery()) as own:
        assert own.cursor == cursors[3]


def test_a_new_consumer_begins_where_it_is_told_and_an_old_one_refuses(engine: Engine) -> None:
    cursors = finish(engine)
    with turn(engine, "etl", FeedQuery(), cursors[2]) as own:
        assert own.cursor == cursors[2]
    with pytest.raises(UsageError, match=f"has its own cursor: .*--reset etl {cursors[0]}"):
        turn(engine, "etl", FeedQuery(), cursors[0]).__enter__()


def test_wrong_names_and_cursors_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="can't name a consumer"):
        turn(engine, "a b", FeedQuery()).__enter__()
    with pytest.raises(UsageError, match="ahead of this database"):
        turn(engine, "etl", FeedQuery(), Cursor(0, 10**15, 1)).__enter__()
    assert consumer_lag.consumers(engine) == []
    with turn(engine, "etl", FeedQuery()):
        pass
    with pytest.raises(UsageError, match=r"no consumer 'etk': did you mean 'etl'\?"):
        consumers.remove(engine, "etk")
    with pytest.raises(UsageError, match="ahead of this database"):
        consumers.reset(engine, "etl", Cursor(0, 10**15, 1))
    consumers.remove(engine, "etl")
    assert consumer_lag.consumers(engine) == []


def test_the_lag_is_of_the_kinds_and_the_batch_that_are_read(engine: Engine) -> None:
    first, second = make_lane(engine, 4, max_attempts=1), make_lane(engine, 2)
    done, *bad = take(engine, first)
    transitions.complete(engine, [image(job) for job in (done, *take(engine, second))])
    transitions.fail(engine, [failure(job) for job in bad], delay_s=0)
    end = feed.parse_cursor(settled(engine, 3)[-1]["cursor"])
    for name, query, expected in (
        ("images", FeedQuery(), 3),
        ("all", FeedQuery(tuple(EventKind)), 6),
        ("failed", FeedQuery((EventKind.FAILED,), done.batch_id), 3),
        ("one", FeedQuery(None, done.batch_id), 1),
    ):
        with turn(engine, name, query) as own:
            own.acknowledge(end)
        consumers.reset(engine, name, START)
        (told,) = [row for row in consumer_lag.consumers(engine) if row["name"] == name]
        assert told["rows"] == expected, name


def test_the_transaction_that_holds_the_feed_back_is_named(engine: Engine) -> None:
    first, second = take(engine, make_lane(engine, 2))
    with turn(engine, "etl", FeedQuery()), engine.connect() as late:
        late.execute(text("SET application_name = 'night report'"))
        late.execute(text("SELECT pg_current_xact_id()"))
        pid = late.execute(text("SELECT pg_backend_pid()")).scalar_one()
        transitions.complete(engine, [image(first), image(second)])
        # Transactions of other tests, in databases of their own, hold the feed back as well while they last.
        until(lambda: (consumer_lag.holder(engine) or {}).get("pid") == pid)
        held_by = consumer_lag.holder(engine)
        assert held_by is not None
        assert (held_by["kind"], held_by["application"]) == ("transaction", "night report")
        assert held_by["since"] is not None
        (told,) = consumer_lag.consumers(engine)
        assert (told["rows"], told["held_back"]) == (2, 2)
        late.rollback()
    settled(engine, 2)
    assert consumer_lag.consumers(engine)[0]["held_back"] == 0


def test_replication_slots_do_not_hold_the_feed_back(engine: Engine) -> None:
    """They hold back the cleaning of tables; a snapshot's oldest transaction is one that runs."""
    (level,) = look(engine, "SELECT current_setting('max_replication_slots')::int AS slots")
    if not level["slots"]:
        pytest.skip("this server has no replication slots")
    slot = "SELECT pg_create_physical_replication_slot('held', true)"
    change(engine, slot)
    try:
        assert len(finish(engine, 3)) == 3
    finally:
        change(engine, "SELECT pg_drop_replication_slot('held')")
