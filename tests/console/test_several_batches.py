"""Commands that change several batches at once: how these are chosen, asked about, told, and refused one by one."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches.record_batch_end_events import record_batch_events
from jobs.job_dataclasses import LaneId
from jobs.queue import transitions
from jobs.states import ErrorKind
from tests.console.conftest import Typed
from tests.factories import age, change, failure, image, look, make_batch, take

COMMANDS = ("pause", "resume", "cancel", "retry", "change --priority 5", "archive --yes", "delete --yes")


def named(engine: Engine, *names: str, tenant: str | None = None, jobs: int = 2) -> None:
    for name in names:
        make_batch(engine, [{"prompt": f"fox {i}", "tenant": tenant} for i in range(jobs)], name=name)


def finish(engine: Engine, *names: str, days_ago: int = 0) -> None:
    """Let every job of the batches be done, since so many days."""
    for name in names:
        for row in look(
            engine, "SELECT l.id FROM lanes l JOIN batches b ON b.id = batch_id WHERE name = :name", name=name
        ):
            lane = LaneId(row["id"])
            transitions.complete(engine, [image(job) for job in take(engine, lane)])
    record_batch_events(engine)
    ids = look(engine, "SELECT id FROM batches WHERE name = ANY (:names)", names=list(names))
    age(engine, days_ago * 86_400, *[row["id"] for row in ids])


def batch_names(engine: Engine) -> list[str]:
    return [row["name"] for row in look(engine, "SELECT name FROM batches ORDER BY id")]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("red --all", "either name batches, or choose them"),
        ("red --name r*", "either name batches, or choose them"),
        ("--all --tenant ada", "either name batches, or choose them"),
        ("--state asleep", "--state asleep: must be one of queued, running"),
        ("--ended-before yesterday", "--ended-before yesterday: a length of time"),
        ("--since once", "An age, as in 12h"),
        ("--tag Ä", "can't be a tag"),
        ("--tenant *", "is no tenant"),
    ],
)
def test_batches_are_named_or_chosen_or_all(typed: Typed, choice: str, words: str) -> None:
    ended = typed("pause", *choice.split())
    assert (ended.code, words in ended.err) == (2, True), ended.err


def test_every_command_says_how_batches_are_chosen(typed: Typed) -> None:
    for command in COMMANDS:
        ended = typed(*command.split())
        assert (ended.code, "name one batch or several, or choose them" in ended.err) == (2, True), command


def test_one_unknown_name_stops_all_before_anything_is_done(typed: Typed, engine: Engine) -> None:
    named(engine, "red", "blue")
    finish(engine, "red")
    before = look(engine, "SELECT * FROM batches ORDER BY id")
    for command in COMMANDS:
        ended = typed(*command.split(), "red", "blue", "gren", "7")
        said = "no batch 'gren'" in ended.err and "no batch '7'" in ended.err
        assert (ended.code, said) == (2, True), command
    assert look(engine, "SELECT * FROM batches ORDER BY id") == before


def test_a_dry_run_lists_and_changes_nothing(typed: Typed, engine: Engine) -> None:
    named(engine, "open", "off", "over")
    typed("pause", "off")
    transitions.fail(engine, [failure(job) for job in take(engine, LaneId(3))], delay_s=0)
    typed("cancel", "over")
    everything = "SELECT b.*, state, attempt FROM batches b JOIN jobs ON batch_id = b.id ORDER BY jobs.id"
    before = look(engine, everything)
    for command, chosen in {
        "pause": ["open", "off"],
        "resume": ["off"],
        "cancel": ["open", "off"],
        "retry": ["over"],
        "change --priority 5": ["open", "off"],
        "archive": ["open", "off", "over"],
        "delete": ["open", "off", "over"],
    }.items():
        listed = typed(*command.split(), "--since", "1d", "--dry-run", "--json")
        assert (listed.code, [each["name"] for each in listed.json]) == (0, chosen), command
        assert {each["dry_run"] for each in listed.json} == {True}
    shown = typed("cancel", "--all", "--dry-run")
    assert shown.out == "open\tqueued\t2 queued\noff\tpaused\t2 queued\n"
    assert shown.err == "would be cancelled: 2 batches (open, off)\n"
    assert typed("cancel", "over", "--dry-run", "--json").json["name"] == "over"
    assert "a cancelled batch can't be paused" in typed("pause", "over", "--dry-run", "--json").json["error"]
    assert look(engine, everything) == before


def test_a_dry_run_of_retry_counts_the_jobs_of_the_kind(typed: Typed, engine: Engine) -> None:
    named(engine, "red", "blue", "green", jobs=3)
    finish(engine, "green")
    for lane in (LaneId(1), LaneId(2)):
        first = ErrorKind.BAD_INPUT if lane == 1 else ErrorKind.WATERMARK
        for job, kind in zip(take(engine, lane), (first, *[ErrorKind.WATERMARK] * 2), strict=True):
            transitions.fail(engine, [failure(job, kind)], delay_s=0)
    planned = typed("retry", "--all", "--only", "bad-input", "--dry-run")
    assert (planned.out, planned.err) == (
        "red\tdone\t1 job\n",
        "would be tried again: 1 batch (red), 1 job\n",
    )
    listed = typed("retry", "--all", "--only", "failed", "--dry-run", "--json").json
    assert [(each["name"], each["jobs"]) for each in listed] == [("red", 3), ("blue", 3)]
    assert typed("retry", "green", "--dry-run").err == "would be tried again: 1 batch (green), 0 jobs\n"
    assert "1 job queued again" in typed("retry", "--all", "--only", "bad-input").err


def test_a_batch_that_refuses_leaves_the_others_done(typed: Typed, engine: Engine) -> None:
    named(engine, "trial-1", "trial-2", "trial-3", "other")
    finish(engine, "trial-1", "trial-3", "other")
    planned = typed("delete", "--name", "trial-*", "--dry-run")
    assert "trial-2\trefused: batch trial-2 has 2 jobs that haven't ended" in planned.out
    assert "would be deleted: 2 batches (trial-1, trial-3)" in planned.err
    ended = typed("delete", "--name", "trial-*", "--yes", "--json")
    assert ended.code == 1
    assert [each["name"] for each in ended.json] == ["trial-1", "trial-2", "trial-3"]
    assert [bool(each["error"]) for each in ended.json] == [False, True, False]
    assert "batch trial-2 has 2 jobs that haven't ended" in ended.json[1]["error"]
    assert "2 batches deleted, 1 refused" in ended.err
    assert batch_names(engine) == ["trial-2", "other"]
    alone = typed("delete", "trial-2", "--yes")
    assert (alone.code, "error:" in alone.err) == (2, True), "as if it were the only one that there is"


def test_several_are_a_list_and_one_is_an_object(typed: Typed, engine: Engine) -> None:
    named(engine, "red", "blue")
    one = typed("pause", "red", "--json").json
    assert (one["name"], one["state"], "error" in one) == ("red", "paused", False)
    two = typed("resume", "red", "red", "--json").json
    assert [(each["name"], each["state"], each["error"]) for each in two] == [("red", "queued", None)]
    both = typed("change", "1", "blue", "--priority", "7", "--json").json
    assert [(each["name"], each["priority"]) for each in both] == [("red", 7), ("blue", 7)]
    chosen = typed("cancel", "--name", "blue", "--json")
    assert [each["state"] for each in chosen.json] == ["cancelled"]
    again = typed("retry", "red", "blue")
    assert (again.code, "2 jobs queued again" in again.err) == (0, True)
    assert typed("status", "blue", "--json").json["state"] == "queued"


def test_what_destroys_asks_once_and_names_all(typed: Typed, engine: Engine) -> None:
    named(engine, "red", "blue", "green")
    refused = typed("cancel", "red", "blue")
    assert (
        refused.code,
        "this ends the unfinished jobs of 2 batches (red, blue): say --yes" in refused.err,
    ) == (2, True)
    assert typed("cancel", "red").code == 0, "one isn't asked about"
    assert typed("cancel", "--all", "--yes").code == 0
    for command, verb in (("archive", "drops the jobs of"), ("delete", "deletes")):
        asked = typed(command, "--state", "cancelled")
        words = f"this {verb} 3 batches (red, blue, green) for good: say --yes"
        assert (asked.code, words in asked.err) == (2, True), asked.err
    assert batch_names(engine) == ["red", "blue", "green"]


def test_nothing_chosen_is_told_and_fine(typed: Typed, engine: Engine) -> None:
    named(engine, "red")
    for command in COMMANDS:
        ended = typed(*command.split(), "--name", "blue*")
        assert (ended.code, ended.out, ended.err[:20]) == (0, "", "no batch is chosen, "), command
    assert typed("pause", "--tenant", "eve", "--json").json == []


def test_all_are_those_that_this_can_be_done_to(typed: Typed, engine: Engine) -> None:
    named(engine, "over", "open", "wide")
    finish(engine, "over")
    for command, done in (("archive", "archived"), ("delete", "deleted")):
        ended = typed(command, "--all", "--yes")
        assert (ended.code, f"1 batch {done}" in ended.err) == (0, True), ended.err
        assert "2 batches are left out, such as: batch open has 2 jobs that haven't ended" in ended.err
        refused = typed(command, "open")
        assert (refused.code, "batch open has 2 jobs" in refused.err, "--yes" in refused.err) == (
            2,
            True,
            False,
        )
    assert batch_names(engine) == ["open", "wide"]


def test_one_kind_of_error_is_chosen(typed: Typed, engine: Engine) -> None:
    named(engine, "red")
    assert "say one kind of error" in typed("retry", "red", "--only", "io", "--error", "oom").err
    assert typed("retry", "red", "--only", "io", "--error", "io").code == 0


def test_failures_of_an_archived_batch_are_told(typed: Typed, engine: Engine) -> None:
    named(engine, "red")
    for job in take(engine, LaneId(1)):
        transitions.fail(engine, [failure(job, ErrorKind.BAD_INPUT)], delay_s=0)
    record_batch_events(engine)
    before = typed("failures", "--json").json
    assert typed("archive", "red", "--yes").code == 0
    after = typed("failures", "--json").json
    assert after["kinds"] == before["kinds"]
    assert [(each["job"], each["error_text"]) for each in after["failures"]] == [
        (2, "it broke"),
        (1, "it broke"),
    ]
    of_batch = typed("failures", "red", "--json").json
    assert [(kind["error_kind"], kind["jobs"]) for kind in of_batch["kinds"]] == [("bad-input", 2)]
    assert "queues them again" not in typed("failures", "red").err
    assert (
        "no job of blue has failed or was blocked"
        in (named(engine, "blue"), typed("failures", "blue"))[1].err
    )


def test_nobody_is_sent_to_retry_for_jobs_that_are_archived(
    typed: Typed, engine: Engine, tmp_path: Path
) -> None:
    for name in ("red", "blue"):
        (tmp_path / f"{name}.txt").write_text(f"a {name} fox\na {name} bird\n")
        assert typed("submit", f"{name}.txt", "--model", "tiny-random").code == 0
    failed = [failure(job, ErrorKind.BAD_INPUT) for job in take(engine, LaneId(1))]
    transitions.fail(engine, failed, delay_s=0)
    assert typed("cancel", "blue").code == 0
    record_batch_events(engine)
    assert typed("archive", "red", "blue", "--yes").code == 0
    again = typed("run", "red.txt", "--model", "tiny-random")
    assert "nothing to render: 0 done, 2 failed; batch red is archived, its jobs are gone" in again.err
    stopped = typed("run", "blue.txt", "--model", "tiny-random")
    assert (stopped.code, "batch blue is archived, its jobs are gone" in stopped.err) == (2, True)
    paused = typed("pause", "blue")
    assert (paused.code, "batch blue is archived, its jobs are gone" in paused.err) == (2, True)
    assert "nightmill retry" not in again.err + stopped.err + paused.err


def test_archive_by_age(typed: Typed, engine: Engine) -> None:
    named(engine, "old", "young", "open")
    finish(engine, "old", days_ago=31)
    finish(engine, "young")
    for option in ("--ended-before", "--older-than"):
        planned = typed("archive", option, "30d", "--dry-run")
        assert (planned.out, planned.err) == ("old\tdone\t2 done\n", "would be archived: 1 batch (old)\n")
    done = typed("archive", "--ended-before", "30d", "--yes", "--json")
    assert [(each["name"], each["archived_jobs"], each["error"]) for each in done.json] == [("old", 2, None)]
    assert [row["batch_id"] for row in look(engine, "SELECT DISTINCT batch_id FROM jobs ORDER BY 1")] == [
        2,
        3,
    ]
    assert "no batch is chosen" in typed("archive", "--ended-before", "30d", "--yes").err
    named(engine, "late")
    assert typed("delete", "--ended-before", "30d", "--name", "o*", "--yes").code == 0
    assert batch_names(engine) == ["young", "open", "late"]


def test_batches_of_several_tenants_are_not_meant_by_one(typed: Typed, engine: Engine) -> None:
    named(engine, "ada-1", "ada-2", tenant="ada")
    make_batch(engine, [{"prompt": "a", "tenant": tenant} for tenant in ("ada", "bob")], name="both")
    ended = typed("cancel", "--tenant", "ada", "--yes", "--json")
    assert [each["name"] for each in ended.json] == ["ada-1", "ada-2"]
    assert "left out, as they have jobs of other tenants, too: both" in ended.err
    assert typed("status", "both", "--json").json["state"] == "queued"
    assert typed("status", "both", "--json").json["tenants"] == ["ada", "bob"]


def test_since_an_age_or_a_moment(typed: Typed, engine: Engine) -> None:
    named(engine, "old", "new")
    change(engine, "UPDATE batches SET created_at = now() - interval '2 days' WHERE name = 'old'")
    for since, found in {"1d": ["new"], "3d": ["old", "new"], "2020-01-01": ["old", "new"]}.items():
        listed = typed("pause", "--since", since, "--dry-run", "--json").json
        assert [each["name"] for each in listed] == found, since


def test_files_of_several_batches_are_deleted(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "fox"}\n')
    for name in ("red", "blue"):
        assert typed("submit", "m.jsonl", "--name", name).code == 0
    typed("cancel", "--all", "--yes")
    output = Path(typed("status", "red", "--json").json["output"])
    assert {path.name for path in output.iterdir() if path.is_dir()} >= {"red", "blue"}
    assert typed("delete", "red", "blue", "--files", "--yes").code == 0
    assert not {path.name for path in output.iterdir()} & {"red", "blue"}
