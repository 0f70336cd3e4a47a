"""The statements that run all the time keep to their indexes, however long the queue is."""

import json
import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Table, TextClause, text

from jobs.batches import accepted_image_quotas as targets
from jobs.batches import drop_jobs_and_delete_batches
from jobs.db import schema
from jobs.feed.feed_query import FeedQuery, json_columns
from jobs.queue import canary_rollout, fair_share, transitions
from jobs.queue import lane_counts_and_low_watermarks as lane_counts
from jobs.states import EventKind
from scheduler.monitoring import queue_figures
from tests.factories import change, failure, image, look, make_batch, take_one

LANES = 5
RUNNING = 20
MOST_TOUCHED = 60  # rows that the plan of a completion touches for each job
MANY = 10_000  # jobs of each lane that are queued, and as many that are done

LEASED = {"lease": "gen_random_uuid()", "lease_until": "now() + interval '1 minute'"}
PAIRS = {"ids": [1, 2], "leases": [uuid4(), uuid4()]}
CLAIM = {
    "lane": 3,
    "limit": 32,
    "worker": "w",
    "lease": uuid4(),
    "lease_s": 30,
    "after": 0,
    "has_room": False,
    "safety": "{}",
}
TIME_SLICE = {
    "time_slice": uuid4(),
    "preferred": 0,
    "warm": ["sketcher"],
    "model_affinity_s": 60,
    "slice_s": 60,
    "pool": "default",
    "avoided": [],
    "worker": "w",
}
GIVEN = json.dumps([{"id": 1, "lease": str(uuid4())}])
ALL = FeedQuery(tuple(EventKind))
START = ALL.values | {"epoch": 0, "xid": "0", "id": 0, "end_epoch": 9, "end_xid": "9", "limit": 100}
IMAGES = text(FeedQuery().page(*json_columns(has_kind=False)))
EVERYTHING = text(ALL.page(*json_columns(has_kind=True)))
MANY_EVENTS = """
    INSERT INTO events (id, epoch, kind, batch_id, batch)
    SELECT nextval('images_id_seq'), 0, 'failed', n, 'b' FROM generate_series(:start + 1, :start + :n) AS n
"""

# statement, values, the table that grows, the indexes by which it may be read, rows that may be looked at
HOT: dict[str, tuple[TextClause, dict[str, Any], str, set[str], int]] = {
    "claim": (
        transitions._CLAIM,
        CLAIM,
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_batch_id_ordinal_index_key", "jobs_pkey"},
        64,
    ),
    "rescue": (transitions._RESCUE, {"limit": 1000}, "jobs", {"jobs_lease_idx", "jobs_pkey"}, 0),
    "cancel": (
        transitions._CANCEL,
        {"lane": 3, "limit": 50},
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_lease_idx", "jobs_pkey"},
        400,
    ),
    "retry": (
        transitions._RETRY,
        {"batch": 1, "states": ["failed"], "kind": None, "same_seed": False, "limit": 50},
        "jobs",
        {"jobs_retry_idx", "jobs_pkey"},
        100,
    ),
    "extend": (transitions._EXTEND, PAIRS | {"lease_s": 30}, "jobs", {"jobs_pkey"}, 2),
    "release": (transitions._RELEASE, PAIRS, "jobs", {"jobs_pkey"}, 2),
    "complete": (transitions._COMPLETE, {"records": GIVEN, "safety": "{}"}, "jobs", {"jobs_pkey"}, 1),
    "fail": (transitions._FAIL, {"records": GIVEN, "delay_s": 1}, "jobs", {"jobs_pkey"}, 1),
    "block": (transitions._BLOCK, {"records": GIVEN, "safety": "{}"}, "jobs", {"jobs_pkey"}, 1),
    "waiting lanes": (
        fair_share._WAITING,
        {"limit": 3, "pool": "default"},
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_batch_id_ordinal_index_key"},
        2 * LANES,
    ),
    "choose": (
        fair_share._PICK,
        TIME_SLICE,
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_lease_idx", "jobs_batch_id_ordinal_index_key"},
        2 * LANES,
    ),
    "seemingly ended": (
        lane_counts._SEEMINGLY_ENDED,
        {"after": 0, "limit": 100},
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_lease_idx"},
        2 * LANES + RUNNING * LANES,
    ),
    "figures": (
        queue_figures._FIGURES,
        {"most": 20, "rate_s": 60, "seen_s": 60, "at_work": ["busy"]},
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_batch_id_ordinal_index_key"},
        4 * LANES,
    ),
    "mark": (
        drop_jobs_and_delete_batches._MARK,
        {"batch": 1, "ended_before_s": None},
        "jobs",
        {"jobs_fresh_idx", "jobs_due_idx", "jobs_lease_idx"},
        2,
    ),
    "low watermarks": (
        lane_counts._RAISE_LOW_WATERMARKS,
        {"top": lane_counts.ABOVE_ALL},
        "jobs",
        {"jobs_fresh_idx"},
        2 * LANES,
    ),
    "judge": (canary_rollout._JUDGE, {}, "jobs", {"jobs_batch_id_ordinal_index_key"}, 0),
    "replace": (
        targets._REPLACE,
        {"batch": None, "limit": 100},
        "jobs",
        {"jobs_retry_idx", "jobs_replaces_key", "jobs_batch_id_ordinal_index_key", "jobs_pkey"},
        0,
    ),
    "archive": (
        drop_jobs_and_delete_batches._JOBS,
        {"batch": 1, "ordinal": 5, "index": 0, "limit": 50},
        "jobs",
        {"jobs_batch_id_ordinal_index_key", "jobs_pkey"},
        100,
    ),
    "feed": (IMAGES, START, "images", {"images_feed_idx"}, 100),
    "feed of all": (EVERYTHING, START, "images", {"images_feed_idx"}, 100),
    "feed of all, its events": (EVERYTHING, START, "events", {"events_feed_idx"}, 100),
}

Node = dict[str, Any]


@pytest.fixture
def crowded(engine: Engine) -> Engine:
    """Five lanes with 50 thousand jobs queued, as many done, some failed or running, and 10 thousand images."""
    make_batch(engine, [{"prompt": "a", "width": 64 + 8 * i} for i in range(LANES)])
    ended = {"finished_at": "now()", "error_kind": "'oom'"}
    multiply(engine, schema.jobs, LANES, MANY, {"ordinal": f"ordinal + n * {LANES}"})
    multiply(
        engine,
        schema.jobs,
        LANES,
        MANY,
        {"index": "n", "state": "'done'", "attempt": "1", "finished_at": "now()"},
    )
    multiply(engine, schema.jobs, LANES, 200, {"index": "-n", "state": "'failed'"} | ended)
    multiply(
        engine,
        schema.jobs,
        LANES,
        RUNNING,
        {"index": "-1000 - n", "state": "'running'", "attempt": "1"} | LEASED,
    )
    transitions.complete(engine, [image(take_one(engine, 1))])
    for start in range(0, MANY, MANY // 5):
        apart = {name: f"{name} + {start} + n" for name in ("job_id", "ordinal")}
        multiply(engine, schema.images, 1, MANY // 5, apart | {"xid": "pg_current_xact_id()"})
        change(engine, MANY_EVENTS, start=start, n=MANY // 5)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return engine


def multiply(engine: Engine, table: Table, first: int, times: int, changed: Mapping[str, str]) -> None:
    """Copy the first rows of a table, with some columns set anew."""
    names = [column.name for column in table.columns if column.name != "id"]
    targets = ", ".join(f'"{name}"' for name in names)
    sources = ", ".join(changed.get(name, f'"{name}"') for name in names)
    rows = f"{table.name}, generate_series(1, {times}) AS n WHERE id <= {first}"
    change(engine, f"INSERT INTO {table.name} ({targets}) SELECT {sources} FROM {rows}")  # noqa: S608


def plan_of(engine: Engine, statement: str, values: Mapping[str, Any] | None = None) -> list[Node]:
    """The nodes of the plan; with values, after running the statement, which is then undone."""
    with engine.connect() as connection:
        if values is None:
            generic = connection.connection.driver_connection.execute(
                f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}"
            )
            ((plan,),) = generic.fetchall()
        else:
            plan = connection.execute(
                text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), values
            ).scalar_one()
        connection.rollback()
    return list(nodes_under(plan[0]["Plan"]))


def numbered(statement: str) -> str:
    """The statement with $1, $2, … for its values, as the server knows it once it is prepared."""
    numbers: dict[str, int] = {}
    return re.sub(
        r"(?<!:):(\w+)", lambda match: f"${numbers.setdefault(match[1], len(numbers) + 1)}", statement
    )


def nodes_under(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes_under(child)


def looked_at(node: Node) -> int:
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return round(rows * node["Actual Loops"])


def is_scan_of(table: str, node: Node) -> bool:
    return node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"


def test_hot_statements_read_few_rows_by_their_indexes(crowded: Engine) -> None:
    for name, (statement, values, table, indexes, most) in HOT.items():
        scans = [node for node in plan_of(crowded, statement.text, values) if is_scan_of(table, node)]
        assert scans, name
        assert {node.get("Index Name", node["Node Type"]) for node in scans} <= indexes, name
        assert sum(map(looked_at, scans)) <= most, name


def test_prepared_plans_are_as_good(crowded: Engine) -> None:
    """psycopg prepares what it runs often, and the server may then plan without looking at the values."""
    if look(crowded, "SELECT current_setting('server_version_num')::int AS number")[0]["number"] < 160_000:
        pytest.skip("PostgreSQL 15 shows no generic plans")
    for name in ("claim", "rescue", "cancel", "complete"):
        statement, _, table, indexes, _ = HOT[name]
        scans = [node for node in plan_of(crowded, statement.text) if is_scan_of(table, node)]
        assert {node.get("Index Name", node["Node Type"]) for node in scans} <= indexes, name


@pytest.mark.parametrize("part", ["again", "fresh"])
def test_a_claim_sorts_no_more_than_what_it_took(crowded: Engine, part: str) -> None:
    """The claim walks its indexes in order; where it would sort, it would read the whole lane for each claim."""
    statement, values, *_ = HOT["claim"]
    nodes = plan_of(crowded, statement.text, values)
    (picked,) = [
        node for node in nodes if node["Node Type"] == "Limit" and part in node.get("Subplan Name", "")
    ]
    walk = [
        node["Node Type"]
        for node in nodes_under(picked)
        if not node.get("Subplan Name", "").startswith("InitPlan")
    ]
    assert [kind for kind in walk if kind != "CTE Scan"] == ["Limit", "LockRows", "Index Scan"]


def test_claims_are_planned_well_before_the_server_has_statistics(engine: Engine) -> None:
    """A batch is claimed right after its ingest, when the server still thinks that its lanes are empty."""
    change(engine, "ALTER TABLE jobs SET (autovacuum_enabled = off)")
    make_batch(engine, [{"prompt": "a", "width": 64 + 8 * i} for i in range(LANES)])
    multiply(engine, schema.jobs, LANES, MANY, {"ordinal": f"ordinal + n * {LANES}"})
    statement, values, table, indexes, most = HOT["claim"]
    scans = [node for node in plan_of(engine, statement.text, values) if is_scan_of(table, node)]
    assert {node["Index Name"] for node in scans} <= indexes
    assert sum(map(looked_at, scans)) <= most


@pytest.mark.parametrize("has_statistics", [True, False])
@pytest.mark.parametrize("name", ["complete", "block"])
def test_the_end_of_a_device_batch_costs_as_much_as_its_jobs(
    engine: Engine, request: pytest.FixtureRequest, name: str, has_statistics: bool
) -> None:
    """Run as workers do, by a prepared statement: rows that all steps of the plan touch, those they discard, too."""
    if has_statistics:
        request.getfixturevalue("crowded")
    else:
        change(engine, "ALTER TABLE jobs SET (autovacuum_enabled = off)")
        make_batch(engine, [{"prompt": "a", "width": 64 + 8 * i} for i in range(LANES)])
        multiply(engine, schema.jobs, LANES, MANY, {"ordinal": f"ordinal + n * {LANES}"})
        multiply(
            engine,
            schema.jobs,
            LANES,
            RUNNING,
            {"index": "-n", "state": "'running'", "attempt": "1"} | LEASED,
        )
    change(engine, "UPDATE jobs SET worker = 'w', started_at = now() WHERE state = 'running'")
    running = look(engine, "SELECT * FROM jobs WHERE state = 'running' AND lease IS NOT NULL ORDER BY id")
    assert len(running) >= RUNNING * LANES
    jobs: list[Any] = [SimpleNamespace(**row) for row in running]
    records = [image(job).record() if name == "complete" else failure(job).record() for job in jobs]
    touched = sum(map(touched_by, executed(engine, HOT[name][0].text, json.dumps(records))))
    assert 10 * len(jobs) < touched < MOST_TOUCHED * len(jobs)


def executed(engine: Engine, statement: str, records: str) -> list[Node]:
    """The nodes of the generic plan of a statement with the values :records and :safety, run and then undone."""
    with engine.connect() as connection:
        cursor = connection.connection.driver_connection.cursor()
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE ended (text, text) AS {numbered(statement)}".encode())
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE ended ($${records}$$, '{{}}')".encode())
        ((plan,),) = cursor.fetchall()
        cursor.execute("DEALLOCATE ended")
        connection.rollback()
    return list(nodes_under(plan[0]["Plan"]))


def touched_by(node: Node) -> int:
    removed = (node.get(f"Rows Removed by {kind}", 0) for kind in ("Filter", "Join Filter", "Index Recheck"))
    return round((node["Actual Rows"] + sum(removed)) * node["Actual Loops"])
