"""Scheduling from the command line: schedules, tenants, dead letters, archives."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.commands.plan import _FILTERED
from jobs.job_dataclasses import LaneId
from jobs.queue import canary_rollout, transitions
from jobs.states import ErrorKind, SafetyAction
from tests.command_line import Nightmill
from tests.console.conftest import Typed, write_lines
from tests.factories import change, failure, image, look, take

NIGHT = "22:00-07:00 Europe/Berlin"


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    write_lines(tmp_path / "foxes.jsonl", [{"prompt": f"fox {i}", "tenant": "ada"} for i in range(4)])
    return "foxes.jsonl"


def test_submit_with_a_schedule_and_change_it(typed: Typed, engine: Engine, manifest: str) -> None:
    options = ("--priority", "5", "--window", NIGHT, "--not-before", "2126-01-01 18:00 UTC")
    first = typed("submit", manifest, *options, "--deadline", "2126-01-02T07:00Z", "--canary", "2", "--json")
    assert first.code == 0, first.err
    assert (first.json["priority"], first.json["window"]) == (5, NIGHT)
    assert (first.json["not_before"], first.json["deadline"]) == (
        "2126-01-01T18:00:00+00:00",
        "2126-01-02T07:00:00+00:00",
    )
    assert look(engine, "SELECT canary FROM batches") == [{"canary": 2}]
    again = typed("submit", manifest, "--priority", "9")
    assert "`nightmill change foxes` changes priority, window, --not-before and --deadline" in again.err
    changed = typed(
        "change", "foxes", "--priority", "-3", "--window", "none", "--not-before", "none", "--json"
    )
    assert changed.code == 0, changed.err
    assert (changed.json["priority"], changed.json["window"], changed.json["not_before"]) == (-3, None, None)
    assert changed.json["deadline"] == "2126-01-02T07:00:00+00:00"
    assert typed("change", "foxes", "--set", "priority=4", "--json").json["policy"]["priority"] == 4
    assert typed("change", "foxes", "--set", "priority=none", "--json").json["priority"] == 0
    typed("change", "foxes", "--priority", "-3")
    shown = typed("status", "foxes")
    assert "deadline" in shown.out
    assert "-3" in shown.out


def test_status_warns_of_a_deadline(typed: Typed, engine: Engine, manifest: str) -> None:
    assert typed("submit", manifest, "--deadline", "2126-01-02T07:00Z").code == 0
    change(engine, "UPDATE batches SET deadline = now() + interval '10 s'; UPDATE lanes SET image_s = 100")
    change(engine, "INSERT INTO workers (name, device) VALUES ('w', 'cpu')")
    for arguments in (("status",), ("status", "foxes")):
        assert "warning: foxes will miss its deadline" in typed(*arguments).err
    assert typed("status", "foxes", "--json").json["misses_deadline"] is True
    change(engine, "UPDATE batches SET deadline = now() - interval '10 s'")
    assert re.search(r"foxes is \d+s late, it was due", typed("status", "foxes").err)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--window", "22-7"), "--set window=22-7: '22-7' is no window: write it like"),
        (("--window", "22:00-07:00 Europe/Bärlin"), "no time zone"),
        (("--not-before", "soon"), "--set not_before=soon: 'soon' is no moment"),
        (
            ("--deadline", "2026-01-01 07:00 UTC", "--not-before", "2026-01-02 07:00 UTC"),
            "not after not_before",
        ),
        (("--priority", "1001"), "priority=1001"),
        (("--set", "target_per=label"), "target_per needs a target"),
        (("--set", "canary_bound=2"), "canary_bound=2"),
    ],
)
def test_a_wrong_schedule_is_told_and_nothing_is_ingested(
    typed: Typed, engine: Engine, manifest: str, options: tuple[str, ...], said: str
) -> None:
    ended = typed("submit", manifest, *options)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert look(engine, "SELECT id FROM batches") == []


def test_change_needs_something_to_change(typed: Typed, manifest: str) -> None:
    typed("submit", manifest)
    ended = typed("change", "foxes")
    assert (ended.code, "say what to change" in ended.err) == (2, True)
    assert typed("change", "boxes", "--priority", "1").code == 2
    kept = typed("change", "foxes", "--set", "quality=80")
    assert (
        kept.code,
        "--set quality: only priority, window, not_before, deadline and on_end" in kept.err,
    ) == (
        2,
        True,
    )


def test_a_batch_that_its_canary_stopped_says_so(typed: Typed, engine: Engine, manifest: str) -> None:
    assert typed("submit", manifest, "--canary", "2", "--set", "canary_bound=0").code == 0
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in take(engine, LaneId(1))[:1]])
    canary_rollout.judge(engine)
    said = "canary: 1 of the first 2 jobs failed or were blocked, more than 0.0 %"
    assert said in typed("status", "foxes").out
    refused = typed("run", manifest, "--canary", "2", "--set", "canary_bound=0")
    assert refused.code == 2
    assert f"paused ({said})" in refused.err
    assert typed("resume", "foxes", "--json").json["canary"] == "overruled"


def test_tenants(typed: Typed, manifest: str) -> None:
    typed("submit", manifest)
    assert typed("tenants", "--json").json == [
        {
            "name": "ada",
            "weight": 1,
            "max_running": None,
            "max_queued": None,
            "prompt_terms": [],
            "queued": 4,
            "running": 0,
            "done": 0,
        }
    ]
    changed = typed("tenants", "set", "ada", "--weight", "3", "--max-running", "10", "--json").json
    assert (changed[0]["weight"], changed[0]["max_running"]) == (3, 10)
    assert typed("tenants", "set", "ada", "--max-running", "none", "--json").json[0]["max_running"] is None
    assert typed("tenants", "set", "ada", "--max-queued", "3", "--json").json[0]["max_queued"] == 3
    refused = typed("submit", manifest, "--name", "more")
    assert (
        refused.code,
        "tenant ada may have 3 open jobs and has 4, and the manifest adds 1" in refused.err,
    ) == (
        1,
        True,
    )
    assert typed("submit", manifest).code == 0, "what is there adds nothing"
    assert "ada" in typed("tenants").out
    assert typed("tenants", "forget", "ada", "--json").json[0]["weight"] == 1
    for wrong in (
        ("tenants", "set", "ada"),
        ("tenants", "set", "ada", "--weight", "0"),
        ("tenants", "set", "ada", "--max-running", "many"),
        ("tenants", "forget", "eve"),
    ):
        ended = typed(*wrong)
        assert ended.code == 2, wrong
        assert "error:" in ended.err


def test_prompt_terms_of_a_tenant_are_set_shown_and_removed(typed: Typed, tmp_path: Path) -> None:
    terms, empty, broken = (tmp_path / name for name in ("terms.txt", "empty.txt", "broken.txt"))
    terms.write_text("# ada's\nred fox\nZebra\n!pöre\n", encoding="utf-8")
    empty.write_text("# none yet\n")
    broken.write_text("fine\n...\n")
    (set_,) = typed("tenants", "set", "ada", "--prompt-terms", str(terms), "--json").json
    assert (set_["name"], set_["weight"], set_["prompt_terms"]) == ("ada", 1, ["Zebra", "red fox"])
    (kept,) = typed("tenants", "set", "ada", "--weight", "3", "--json").json
    assert kept["prompt_terms"] == ["Zebra", "red fox"]
    assert "terms" in typed("tenants").out
    shown = typed("tenants", "prompt-terms", "ada")
    assert (shown.code, shown.out) == (0, terms.read_text(encoding="utf-8"))
    assert typed("tenants", "prompt-terms", "ada", "--json").json == {
        "tenant": "ada",
        "prompt_terms": ["Zebra", "red fox"],
    }
    (tmp_path / "long.txt").write_text("zebra\n" * 20_000)
    (tmp_path / "null.txt").write_text("zebra\0\n")
    for wrong, why in (
        (("ada", str(tmp_path / "long.txt")), "are longer than 100,000 bytes"),
        (("ada", str(tmp_path / "null.txt")), "holds NUL characters"),
        (("ada", str(tmp_path / "gone.txt")), "can't read the prompt terms in"),
        (("ada", str(broken)), "line 2: '...' holds no word"),
        (("ada", str(empty)), "has no terms; `--prompt-terms none` removes those there are"),
        (("*", str(terms)), "their terms are NIGHTMILL_PROMPT_TERMS"),
    ):
        refused = typed("tenants", "set", wrong[0], "--prompt-terms", wrong[1])
        assert (refused.code, why in refused.err) == (2, True), refused.err
    (removed,) = typed("tenants", "set", "ada", "--prompt-terms", "none", "--json").json
    assert (removed["weight"], removed["prompt_terms"]) == (3, [])
    assert typed("tenants", "prompt-terms", "ada").out == ""
    typed("tenants", "set", "ada", "--prompt-terms", str(terms))
    typed("tenants", "forget", "ada")
    assert typed("tenants", "prompt-terms", "ada", "--json").json["prompt_terms"] == []


def test_a_plan_tells_which_rows_the_prompt_filter_would_block(typed: Typed, tmp_path: Path) -> None:
    manifest, terms = tmp_path / "rows.jsonl", tmp_path / "terms.txt"
    prompts = ["a red fox", "a n4ked man", "a zebra", "a naked man"]
    write_lines(manifest, [{"prompt": prompt, "tenant": "ada"} for prompt in prompts])
    terms.write_text("zebra\n")
    typed("tenants", "set", "ada", "--prompt-terms", str(terms))
    found = typed("plan", str(manifest), "--json").json
    assert (found["filtered_prompts"], found["filtered_prompt_lines"]) == (3, [2, 3, 4])
    assert found["filtered_prompt_terms"] == {"naked man": 2, "zebra": 1}
    shown = typed("plan", str(manifest))
    assert "3 rows will be blocked, lines 2, 3, 4; terms: 'naked man' 2, 'zebra' 1" in " ".join(
        shown.out.split()
    )
    blurred = typed("plan", str(manifest), "--set", "safety=blur")
    assert "images of 3 rows will be blurred" in " ".join(blurred.out.split())
    quarantined = typed("plan", str(manifest), "--set", "safety=quarantine")
    assert "3 rows will be blocked" in " ".join(quarantined.out.split())


def test_a_plan_has_words_for_every_safety_action() -> None:
    assert _FILTERED.keys() == set(SafetyAction)


def test_failures_and_retry_only_one_kind(typed: Typed, engine: Engine, manifest: str) -> None:
    typed("submit", manifest)
    jobs = take(engine, LaneId(1))
    transitions.fail(engine, [failure(jobs[0], ErrorKind.BAD_INPUT, "no such picture")], delay_s=0)
    transitions.block(engine, [failure(jobs[1], ErrorKind.SAFETY, "nudity")])
    told = typed("failures", "foxes", "--json").json
    assert told["kinds"] == [
        {"error_kind": "bad-input", "state": "failed", "jobs": 1},
        {"error_kind": "safety", "state": "blocked", "jobs": 1},
    ]
    assert [job["history"][0]["error_text"] for job in told["failures"]] == ["no such picture", "nudity"]
    shown = typed("failures", "foxes", "--error", "bad-input")
    assert "attempt 1: failed on w1" in shown.err
    assert "nudity" not in shown.err
    assert "1 job queued again" in typed("retry", "foxes", "--only", "safety").err
    assert "1 job queued again" in typed("retry", "foxes", "--only", "failed", "--error", "bad-input").err
    wrong = typed("retry", "foxes", "--only", "sadness")
    assert (wrong.code, "must be one of failed, blocked" in wrong.err) == (2, True)


def test_a_former_name_of_a_policy_is_told(nightmill: Nightmill, manifest: str) -> None:
    submitted = nightmill("submit", manifest, "--set", "target=6", "--set", "top_up=0", "--json")
    assert "--set top_up is now called max_replacement_ratio" in submitted.err
    again = nightmill("submit", manifest, "--set", "target=6", "--set", "max_replacement_ratio=0", "--json")
    assert (again.code, again.json["batch"]) == (0, submitted.json["batch"])
    assert "is now called" not in again.err


def test_targets(typed: Typed, engine: Engine, manifest: str) -> None:
    typed("submit", manifest, "--set", "target=6", "--set", "max_replacement_ratio=0")
    jobs = take(engine, LaneId(1))
    transitions.block(engine, [failure(jobs[0], ErrorKind.SAFETY)])
    transitions.complete(engine, [image(job) for job in jobs[1:4]])
    lacking = {"value": "", "target": 6, "accepted": 3, "on_their_way": 2}
    assert typed("targets", "foxes", "--json").json == [lacking]
    assert "1 values lack images" in typed("targets", "foxes").err
    assert typed("status", "foxes", "--json").json["short"] is None, "not while jobs are open"
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in jobs[4:]])
    said = "the target is short by 3 images of 1 value: `nightmill targets foxes` shows which"
    assert said in typed("status", "foxes").err
    status = typed("status", "foxes", "--json")
    assert (status.code, status.json["short"]) == (0, {"images": 3, "values": 1})


def test_a_run_that_misses_its_target_says_so_and_ends_with_1(
    typed: Typed, engine: Engine, manifest: str
) -> None:
    run = "run", manifest, "--set", "target=5", "--set", "max_replacement_ratio=0", "--workers", "0"
    typed("submit", *run[1:6])
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in take(engine, LaneId(1))])
    ended = typed(*run, "--json")
    assert (ended.code, ended.json["short"], ended.json["counts"]["failed"]) == (
        1,
        {"images": 5, "values": 1},
        0,
    )
    assert "the target is short by 5 images of 1 value: `nightmill targets foxes`" in typed(*run).err


def test_a_plan_counts_the_replacements_that_were_needed_so_far(
    typed: Typed, engine: Engine, manifest: str
) -> None:
    assert typed("plan", manifest, "--set", "target=40", "--json").json["expected_replacements"] == 0
    typed("submit", manifest)
    jobs = take(engine, LaneId(1))
    transitions.block(engine, [failure(jobs[0], ErrorKind.SAFETY)])
    transitions.complete(engine, [image(job) for job in jobs[1:]])
    planned = typed("plan", manifest, "--set", "target=40", "--json").json
    assert (planned["jobs"], planned["expected_replacements"]) == (40, 13)
    assert (
        "40; about 13 replacements for images that are lost"
        in typed("plan", manifest, "--set", "target=40").out
    )
    wrong = typed("plan", manifest, "--set", "target=40", "--set", "target_per=colour")
    assert (wrong.code, "--set target_per=colour: no row has a column 'colour'" in wrong.err) == (2, True)


def test_archive_and_delete(typed: Typed, engine: Engine, manifest: str, tmp_path: Path) -> None:
    typed("submit", manifest)
    assert "haven't ended" in typed("archive", "foxes", "--yes").err
    jobs = take(engine, LaneId(1))
    transitions.complete(engine, [image(job) for job in jobs])
    asked = typed("archive", "foxes")
    assert (asked.code, "drops the jobs of foxes (4 done) for good: say --yes" in asked.err) == (2, True)
    assert "archived" not in typed("status", "foxes").out
    archived = typed("archive", "foxes", "--yes", "--json")
    assert (archived.json["archived_jobs"], archived.json["counts"]["done"]) == (4, 4)
    assert "archived" in typed("status", "foxes").out
    refused = typed("delete", "foxes")
    assert (refused.code, "say --yes" in refused.err) == (2, True)
    folder = Path(archived.json["output"]) / "foxes" / "images"
    (folder / "000000").mkdir(parents=True)
    (folder / "000000" / "000000000-00000.0123456789ab.png").write_bytes(b"x")
    deleted = typed("delete", "foxes", "--files", "--yes", "--json")
    assert deleted.json == {
        "batch": 1,
        "name": "foxes",
        "deleted_rows": 4,
        "files": True,
        "stayed": [],
    }
    assert not folder.parent.exists()
    assert typed("status", "foxes").code == 2
