"""Batches chosen by name, tenant, state, tags and age: the SQL condition against what holds of each batch."""

from datetime import timedelta
from fnmatch import fnmatchcase

from sqlalchemy import Engine

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.selection.batch_filters import BatchFilter, find_batches, glob_to_regex
from jobs.batches.status import statuses
from jobs.batches.tags import change_tags
from jobs.queue import transitions
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.states import BatchState
from tests.factories import age, change, failure, image, lanes_of, look, make_batch, take

DAY_S = 86_400
NAMES = ("trial-1", "trial-22", "trial.1", "trial_1", "a", "a-b", "b0", "0-9", "trial")
PATTERNS = (
    *("*", "trial*", "trial-?", "trial-??", "trial.?", "trial-[12]*", "trial-[!1]*", "[a-c]*", "[!a-c]*"),
    *("trial[._]1", "[]a]*", "[z-a]*", "[a", "a]", "?", "", "**", "Trial*", "trial-1|a", "(a)", "a+", r"\w+"),
    *("trial-1$", "^a", ".*", "a{1}", "[^a]*", "[[:alpha:]]*", "tri\nal", "[-0]*"),
)


def test_a_pattern_matches_the_names_that_a_shell_would_match(engine: Engine) -> None:
    for pattern in PATTERNS:
        rows = look(
            engine,
            "SELECT name FROM unnest(CAST(:names AS text[])) AS t (name) WHERE name ~ :pattern",
            names=list(NAMES),
            pattern=f"^({glob_to_regex(pattern)})$",
        )
        assert {row["name"] for row in rows} == {n for n in NAMES if fnmatchcase(n, pattern)}, pattern


def test_every_state_is_found_as_the_status_has_it(engine: Engine) -> None:
    made = {
        name: make_batch(engine, 2, name=name) for name in ("open", "busy", "off", "stop", "over", "none")
    }
    take(engine, lanes_of(engine, made["busy"])[0], 1)
    actions.pause(engine, made["off"].id)
    actions.cancel(engine, made["stop"].id)
    jobs = take(engine, lanes_of(engine, made["over"])[0])
    transitions.complete(engine, [image(jobs[0])])
    transitions.fail(engine, [failure(jobs[1])], delay_s=0)
    change(engine, "UPDATE jobs SET attempt = 3 WHERE batch_id = :id", id=made["over"].id)
    expected = {
        BatchState.QUEUED: ["open", "none"],
        BatchState.RUNNING: ["busy"],
        BatchState.PAUSED: ["off"],
        BatchState.CANCELLED: ["stop"],
    }
    for state, names in expected.items():
        found = statuses(engine, BatchFilter(states=(state,)))
        assert {each.name for each in found} == set(names) | (
            {"over"} if state == BatchState.QUEUED else set()
        )
        assert {each.state for each in found} == {state}
    transitions.complete(engine, [image(job) for job in take(engine, lanes_of(engine, made["over"])[0])])
    assert [each.name for each in statuses(engine, BatchFilter(states=(BatchState.DONE,)))] == ["over"]
    both = BatchFilter(states=(BatchState.DONE, BatchState.PAUSED))
    assert [each.name for each in statuses(engine, both)] == ["off", "over"]
    assert len(find_batches(engine, BatchFilter(states=tuple(BatchState)))) == len(made)


def test_all_that_is_asked_for_has_to_hold(engine: Engine) -> None:
    rows = {
        "ada": [{"prompt": "a", "tenant": "ada"}],
        "both": [{"prompt": "a", "tenant": t} for t in ("ada", "bob")],
    }
    ids = {name: make_batch(engine, given, name=name).id for name, given in rows.items()}
    ids["nobody"] = make_batch(engine, 1, name="nobody").id
    change_tags(engine, ids["ada"], ["good", "new"])
    change_tags(engine, ids["both"], ["good"])
    change(engine, "UPDATE batches SET created_at = now() - interval '2 days' WHERE name = 'both'")
    (now,) = look(engine, "SELECT now() AS now")

    def names(**given: object) -> list[str]:
        found = find_batches(engine, BatchFilter(**given))  # type: ignore[arg-type]
        return [name for name, id in ids.items() if id in found]

    assert names() == ["ada", "both", "nobody"]
    assert names(tenant="ada") == ["ada", "both"]
    assert names(tenant="bob") == ["both"]
    assert names(tenant="") == ["nobody"]
    assert names(tags=("good",)) == ["ada", "both"]
    assert names(tags=("good", "new")) == ["ada"]
    assert names(since=now["now"] - timedelta(days=1)) == ["ada", "nobody"]
    assert names(names=("a*", "no*")) == ["ada", "nobody"]
    assert names(names=("a*", "no*"), tenant="ada") == ["ada"]
    assert names(names=("b*",), tags=("new",)) == []


def test_batches_that_ended_long_ago(engine: Engine) -> None:
    def before(age_s: float) -> set[int]:
        return set(find_batches(engine, BatchFilter(ended_before_s=age_s, has_jobs=True)))

    make_batch(engine, 1, name="open")
    old, young, again, cut_off = (
        make_batch(engine, 2, name=name) for name in ("old", "young", "again", "cut-off")
    )
    for batch in (old, young, again, cut_off):
        (lane,) = lanes_of(engine, batch)
        transitions.fail(engine, [failure(job) for job in take(engine, lane)], delay_s=0)
        actions.cancel(engine, batch.id)
    end_lanes(engine)
    age(engine, 31 * DAY_S, old.id, again.id, cut_off.id)
    change(engine, "UPDATE batches SET created_at = created_at - interval '40 days'")
    actions.retry(engine, again.id)
    assert before(30 * DAY_S) == {old.id, cut_off.id}
    assert before(32 * DAY_S) == set()
    assert before(0) == {old.id, young.id, cut_off.id}
    change(engine, "UPDATE batches SET archived_at = now() WHERE id = :id", id=cut_off.id)
    drop_jobs_and_delete_batches.archive(engine, actions.status(engine, "old"))
    assert before(30 * DAY_S) == {cut_off.id}, "it still has jobs"


def test_a_batch_without_jobs_has_ended(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": ""}])
    record_batch_events(engine)
    assert find_batches(engine, BatchFilter(ended_before_s=0)) == [batch.id]
    assert find_batches(engine, BatchFilter(ended_before_s=60)) == []
