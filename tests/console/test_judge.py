"""`nightmill judge`: what another safety policy would change and does, from stored scores, without a worker."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.feed import feed
from jobs.feed.feed_query import FeedQuery
from jobs.job_dataclasses import Failure
from jobs.queue import transitions
from jobs.safety_reevaluation.block_and_unblock_jobs import hold
from jobs.states import ErrorKind, EventKind
from jobs.storage.key_layout import CONTACT_SHEET, image_key
from jobs.storage.open import MissingObjectError, ObjectStore, S3Options, open_store
from scheduler.ingest.ingest import Ingested
from tests.console.conftest import Typed
from tests.factories import (
    await_feed,
    change,
    image,
    job_row,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    states,
    take,
)

ROWS = [{"prompt": f"fox {number}", "id": f"r{number}"} for number in range(8)]
HIGHEST: list[tuple[str, float | None]] = [
    ("done", -0.1),
    ("done", -0.01),
    ("done", -0.005),
    ("done", None),
    ("blocked", 0.015),
    ("blocked", 0.3),
    ("blocked", None),
    ("queued", None),
]
"""How each row ended, and the score of its third concept; None: without scores."""

NOTHING: dict[str, Any] = dict.fromkeys(
    ("blocked", "deleted_files", "quarantined_files", "restored", "queued", "released"), 0
) | {"is_overtaken": False}


def scores(third: float | None) -> dict[str, list[float]] | None:
    if third is None:
        return None
    return {"concepts": [-0.2, -0.2, third, *[-0.2] * 14], "special_care": [-0.2] * 3}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "output"), S3Options())


@pytest.fixture
def foxes(engine: Engine, store: ObjectStore, tmp_path: Path) -> Ingested:
    batch = make_batch(engine, ROWS, name="foxes", output=str(tmp_path / "output"))
    for job in take(engine, lanes_of(engine, batch)[0], 7):
        state, third = HIGHEST[job.ordinal]
        if state == "done":
            end(engine, store, job, scores(third))
        else:
            transitions.block(engine, [Failure(job.id, job.lease, ErrorKind.SAFETY, "found", scores(third))])
    return batch


def end(engine: Engine, store: ObjectStore, job: Any, found: Any) -> None:
    """Complete a job, with a file whose bytes follow from the seed."""
    digest = f"{job.seed:064x}"
    key = image_key("foxes", job.ordinal, job.index, digest, "png")
    store.put(key, str(job.seed).encode(), content_type="image/png")
    transitions.complete(engine, [image(job, key=key, sha256=digest, safety_scores=found)])


def files(store: ObjectStore) -> list[str]:
    return [found.key for found in store.list("foxes/images/")]


def events(engine: Engine) -> list[dict[str, Any]]:
    await_feed(engine)
    query = FeedQuery((EventKind.RETRACTED, EventKind.BLOCKED))
    return [
        json.loads(line) for page in feed.pages(engine, feed.Cursor(0, 0, 0), query) for line in page.lines
    ]


@pytest.mark.usefixtures("foxes")
class TestDryRun:
    def test_it_tells_what_would_be_blocked_and_changes_nothing(
        self, engine: Engine, typed: Typed, store: ObjectStore
    ) -> None:
        before = look(engine, "SELECT * FROM jobs ORDER BY id"), files(store), len(events(engine))
        told = typed("judge", "foxes", "--strength", "strong", "--json").json
        assert told["before"] == {
            "safety": "block",
            "safety_strength": "standard",
            "safety_thresholds": None,
            "safety_checkers": None,
        }
        assert told["after"]["safety_strength"] == "strong"
        images = {"total": 4, "blocked": 2, "by_concept": {"2": 2}, "without_scores": 1, "for_prompt": 0}
        assert told["images"] == images
        jobs = {"total": 3, "freed": 0, "by_concept": {}, "without_scores": 1, "freed_from_quarantine": 0}
        assert told["blocked_jobs"] == jobs
        first, second = told["examples"]["blocked"]
        assert (first["row_id"], first["above"]) == ("r1", {"2": 0.01})
        assert (second["row_id"], second["above"]) == ("r2", {"2": 0.015})
        assert told["applied"] is None
        assert (look(engine, "SELECT * FROM jobs ORDER BY id"), files(store), len(events(engine))) == before

    def test_it_tells_what_would_be_freed(self, typed: Typed) -> None:
        told = typed("judge", "foxes", "--strength", "lenient", "--json").json
        assert told["images"]["blocked"] == 0
        jobs = {"total": 3, "freed": 1, "by_concept": {"2": 1}, "without_scores": 1}
        assert told["blocked_jobs"] == jobs | {"freed_from_quarantine": 0}
        (example,) = told["examples"]["freed"]
        assert (example["row_id"], example["image_id"], example["above"]) == ("r4", None, {"2": 0.015})

    def test_people_get_a_table(self, typed: Typed) -> None:
        ended = typed("judge", "foxes", "--strength", "strong")
        assert ended.code == 0
        lines = [line.split() for line in ended.out.splitlines()]
        assert ["2", "2", "0"] in lines
        assert ["blocked", "r1", "2", "2", "at", "+0.010"] in lines
        assert "foxes: block, standard → block, strong" in ended.err
        assert "2 of 4 images would be blocked, 0 of 3 blocked jobs freed: 0 from quarantine" in ended.err
        assert "1 image can't be judged: no scores are stored with them" in ended.err
        assert "1 blocked job can't be judged: blocked for the prompt, or no scores are stored" in ended.err
        assert "nothing was changed: --apply does it" in ended.err

    def test_what_the_prompt_filter_has_flagged_is_told(self, engine: Engine, typed: Typed) -> None:
        flagged = "safety_verdict = 'flagged', safety_reason = 'prompt holds fox'"
        change(engine, f"UPDATE images SET {flagged} WHERE row_id = 'r0'")  # noqa: S608
        told = typed("judge", "foxes", "--safety", "block", "--json").json
        assert (told["images"]["blocked"], told["images"]["for_prompt"]) == (1, 1)
        (example,) = told["examples"]["blocked"]
        assert (example["row_id"], example["above"], example["for_prompt"]) == ("r0", {}, True)
        ended = typed("judge", "foxes", "--safety", "block")
        assert ["blocked", "r0", "1", "its", "prompt"] in [line.split() for line in ended.out.splitlines()]
        assert "1 of them for their prompts" in ended.err

    def test_a_file_says_which_concepts(self, typed: Typed, tmp_path: Path) -> None:
        path = tmp_path / "thresholds.toml"
        path.write_text("[concepts]\n2 = 0.008\n3 = 0.1\n")
        told = typed("judge", "foxes", "--thresholds", str(path), "--json").json
        assert told["after"]["safety_thresholds"] == "2=0.008,3=0.1"
        assert [each["row_id"] for each in told["examples"]["blocked"]] == ["r2"]
        both = typed("judge", "foxes", "--thresholds", str(path), "--strength", "lenient", "--json").json
        assert (both["images"]["blocked"], both["blocked_jobs"]["freed"]) == (0, 0)


@pytest.mark.usefixtures("foxes")
class TestWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "say by which policy: --strength, --thresholds FILE or both, or --safety"),
            (("--strength", "brutal"), "--strength brutal: must be one of lenient, standard, strong"),
            (("--safety", "flag"), "--safety flag: must be one of block, quarantine"),
            (("--thresholds", "nowhere.toml"), "--thresholds nowhere.toml: No such file or directory"),
        ],
    )
    def test_options(self, typed: Typed, arguments: tuple[str, ...], said: str) -> None:
        ended = typed("judge", "foxes", *arguments)
        assert (ended.code, said in ended.err) == (2, True), ended.err

    def test_an_unknown_concept_is_named_with_file_and_place(self, typed: Typed, tmp_path: Path) -> None:
        (tmp_path / "t.json").write_text('{"concepts": {"17": 0.1}}')
        ended = typed("judge", "foxes", "--thresholds", "t.json")
        assert ended.code == 2
        assert (
            "t.json: concepts.17: there is no such concept: there are all, the concepts 0 to 16" in ended.err
        )
        (tmp_path / "t.bin").write_bytes(b"\xff\xfe\xfd")
        ended = typed("judge", "foxes", "--thresholds", "t.bin")
        assert (ended.code, "--thresholds t.bin: it isn't UTF-8" in ended.err) == (2, True)

    def test_archived_and_unknown_batches(self, engine: Engine, typed: Typed) -> None:
        assert typed("judge", "wolves", "--strength", "strong").code == 2
        actions.cancel(engine, actions.status(engine, "foxes").id)
        drop_jobs_and_delete_batches.archive(engine, actions.status(engine, "foxes"))
        ended = typed("judge", "foxes", "--strength", "strong")
        assert (ended.code, "foxes is archived, its jobs are gone" in ended.err) == (2, True)


@pytest.mark.usefixtures("foxes")
def test_safety_alone_keeps_strength_and_thresholds(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[concepts]\n3 = 0.02\n")
    typed("judge", "foxes", "--strength", "strong", "--thresholds", "t.toml", "--apply")
    told = typed("judge", "foxes", "--safety", "quarantine", "--apply", "--json").json
    assert told["after"] == {
        "safety": "quarantine",
        "safety_strength": "strong",
        "safety_thresholds": "3=0.02",
        "safety_checkers": None,
    }
    assert told["applied"] == NOTHING
    typed("judge", "foxes", "--strength", "strong", "--apply")
    policy = typed("status", "foxes", "--json").json["policy"]
    assert (policy["safety"], policy["safety_thresholds"]) == ("quarantine", None)


def test_a_call_that_is_overtaken_says_so_and_fails(
    engine: Engine, typed: Typed, foxes: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(connection: Any, batch: Any) -> None:
        connection.execute(text("UPDATE batches SET archived_at = now()"))
        hold(connection, batch)

    monkeypatch.setattr("jobs.safety_reevaluation.apply_safety_policy.hold", overtaken)
    ended = typed("judge", "foxes", "--strength", "strong", "--apply")
    assert ended.code == 1
    assert "foxes got another safety policy, was moved or archived meanwhile: nothing more" in ended.err
    assert states(engine, foxes.id)["done"] == 4


def test_a_batch_that_keeps_what_is_flagged_is_judged_only_if_asked_to_block(
    engine: Engine, typed: Typed
) -> None:
    batch = make_batch(engine, 1, name="flagged", safety="flag")
    (job,) = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(engine, [image(job, safety_verdict="flagged", safety_scores=scores(0.1))])
    refused = typed("judge", "flagged", "--strength", "strong")
    assert (refused.code, "has safety=flag, under which flagged images stay" in refused.err) == (2, True)
    told = typed("judge", "flagged", "--strength", "standard", "--safety", "block", "--json").json
    assert told["images"]["blocked"] == 1


class TestApply:
    def test_blocked_images_leave_the_dataset(
        self, engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore
    ) -> None:
        before = look(engine, "SELECT * FROM images ORDER BY ordinal")
        sheet = f"foxes/{CONTACT_SHEET}"
        store.put(sheet, b"four foxes", content_type="image/png")
        told = typed("judge", "foxes", "--strength", "strong", "--apply", "--json").json
        assert told["applied"] == NOTHING | {"blocked": 2, "deleted_files": 2}
        with pytest.raises(MissingObjectError):
            store.get(sheet)
        assert states(engine, foxes.id) == {"done": 2, "blocked": 5, "queued": 1}
        assert files(store) == [before[0]["key"], before[3]["key"]]
        gone = job_row(engine, before[1]["job_id"])
        assert (gone["error_kind"], gone["error_text"]) == (
            "safety",
            "safety checker: concept 2 at +0.010",
        )
        told_of = [event for event in events(engine) if event["job_id"] == before[1]["job_id"]]
        retracted, blocked = told_of
        assert (retracted["event"], retracted["image_id"]) == ("retracted", before[1]["id"])
        assert retracted["detail"] == {
            "reason": "safety checker: concept 2 at +0.010",
            "key": before[1]["key"],
            "sha256": before[1]["sha256"],
        }
        assert (blocked["event"], blocked["detail"]["scores"]) == ("blocked", scores(-0.01))
        policy = typed("status", "foxes", "--json").json["policy"]
        assert (policy["safety"], policy["safety_strength"]) == ("block", "strong")
        assert lane_differences(engine) == []

    @pytest.mark.usefixtures("foxes")
    def test_a_second_time_changes_nothing(self, engine: Engine, typed: Typed) -> None:
        typed("judge", "foxes", "--strength", "strong", "--apply")
        before = look(engine, "SELECT * FROM jobs ORDER BY id"), len(events(engine))
        again = typed("judge", "foxes", "--strength", "strong", "--apply", "--json").json
        assert again["applied"] == NOTHING
        assert (look(engine, "SELECT * FROM jobs ORDER BY id"), len(events(engine))) == before

    def test_freed_jobs_are_queued_with_their_seeds(
        self, engine: Engine, typed: Typed, foxes: Ingested
    ) -> None:
        before = look(engine, "SELECT * FROM jobs WHERE ordinal = 4")[0]
        ended = typed("judge", "foxes", "--strength", "lenient", "--apply")
        assert ended.code == 0
        assert "0 images moved out of it, 1 job queued again" in ended.err
        assert "the same `nightmill run`, or workers that are up, render what is queued" in ended.err
        after = job_row(engine, before["id"])
        assert (after["state"], after["seed"], after["attempt"]) == ("queued", before["seed"], 0)
        assert states(engine, foxes.id) == {"done": 4, "blocked": 2, "queued": 2}
        assert lane_differences(engine) == []

    def test_back_to_the_policy_of_before(
        self, engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore
    ) -> None:
        typed("judge", "foxes", "--strength", "strong", "--apply")
        told = typed("judge", "foxes", "--strength", "standard", "--apply", "--json").json
        assert told["applied"]["queued"] == 2
        assert look(engine, "SELECT policy - 'batch_seed' AS policy FROM batches") == [{"policy": {}}]
        for job in take(engine, lanes_of(engine, foxes)[0]):
            end(engine, store, job, scores(-0.01))
        assert states(engine, foxes.id) == {"done": 5, "blocked": 3}

    def test_what_a_killed_call_left_is_done_by_the_next(
        self, engine: Engine, typed: Typed, foxes: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: object) -> set[int]:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr("jobs.safety_reevaluation.apply_safety_policy.block_images", killed)
            assert typed("judge", "foxes", "--strength", "strong", "--apply").code == 1
        assert states(engine, foxes.id)["done"] == 4
        told = typed("judge", "foxes", "--strength", "strong", "--apply", "--json").json
        assert (told["before"]["safety_strength"], told["applied"]["blocked"]) == ("strong", 2)

    def test_a_foreign_folder_is_left_alone(
        self, engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore
    ) -> None:
        key = "foxes/.nightmill-owner.json"
        owner = json.loads(store.get(key))
        owner["installation"] = "00000000-0000-0000-0000-000000000001"
        store.put(key, json.dumps(owner).encode(), content_type="application/json")
        ended = typed("judge", "foxes", "--strength", "strong", "--apply")
        assert (ended.code, "belongs to another installation" in ended.err) == (2, True)
        assert states(engine, foxes.id)["done"] == 4
        assert typed("status", "foxes", "--json").json["policy"]["safety_strength"] == "standard"

    @pytest.mark.usefixtures("foxes")
    def test_exports_are_written_again_without_blocked_images(self, typed: Typed, tmp_path: Path) -> None:
        def exported() -> list[str]:
            folder = tmp_path / "exported"
            assert typed("export", "foxes", "--format", "jsonl", "--to", str(folder)).code == 0
            lines = [line for path in folder.glob("part-*") for line in path.read_text().splitlines()]
            return [json.loads(line)["row_id"] for line in lines]

        assert exported() == ["r0", "r1", "r2", "r3"]
        ended = typed("judge", "foxes", "--strength", "strong", "--apply")
        place = tmp_path / "exported"
        assert (
            f"until the next `nightmill export` what was taken out is still in: foxes (jsonl) in {place}"
            in (ended.err.replace("\n", " "))
        )
        assert exported() == ["r0", "r3"]

    def test_files_are_moved_into_quarantine_and_out_of_it(
        self, engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore
    ) -> None:
        there = files(store)
        change(
            engine,
            "UPDATE images SET sha256 = encode(sha256(convert_to(seed::text, 'UTF8')), 'hex') WHERE ordinal < 3",
        )
        into = ("judge", "foxes", "--strength", "strong", "--safety", "quarantine", "--apply")
        told = typed(*into, "--json").json
        assert told["applied"] == NOTHING | {"blocked": 2, "quarantined_files": 2}
        kept = [found.key for found in store.list("foxes/quarantine/")]
        assert sorted(files(store) + [key.replace("/quarantine/", "/images/") for key in kept]) == there
        failures = typed("failures", "foxes")
        assert f"its image is in quarantine: {store.uri}/{kept[0]}" in failures.err.replace("\n", "")
        assert typed("failures", "foxes", "--json").json["failures"][0]["quarantined"] == kept[0]
        ended = typed("judge", "foxes", "--strength", "standard")
        assert "2 of 5 blocked jobs freed: 2 from quarantine, 0 rendered again" in ended.err
        back = typed("judge", "foxes", "--strength", "standard", "--apply")
        assert "2 images moved out of it, 0 jobs queued again" in back.err
        assert (files(store), states(engine, foxes.id)["done"]) == (there, 4)
        assert lane_differences(engine) == []

    @pytest.mark.usefixtures("foxes")
    def test_concepts_have_the_names_of_the_checkers_card(
        self, engine: Engine, typed: Typed, tmp_path: Path
    ) -> None:
        change(engine, "UPDATE lanes SET model = 'shapes'")
        (tmp_path / "t.toml").write_text('[concepts]\n"purple circle" = 0.008\n')
        by_name = ("judge", "foxes", "--thresholds", "t.toml")
        assert ["2", "(purple", "circle)", "1", "0"] in [
            line.split() for line in typed(*by_name).out.splitlines()
        ]
        told = typed(*by_name, "--apply", "--json").json
        assert (told["after"]["safety_thresholds"], told["concepts"][2]) == ("2=0.008", "purple circle")
        (blocked,) = look(engine, "SELECT error_text FROM jobs WHERE state = 'blocked' AND ordinal < 4")
        assert blocked["error_text"] == "safety checker: purple circle at +0.003"
        (tmp_path / "t.toml").write_text('[concepts]\n"purple square" = 0.008\n')
        refused = typed(*by_name)
        assert (refused.code, "concepts.purple square: there is no such concept" in refused.err) == (2, True)
        assert "2 is 'purple circle'" in refused.err


def test_help_tells_what_safety_alone_does(typed: Typed) -> None:
    told = " ".join(typed("judge", "--help").out.replace("│", " ").split())
    assert "Alone, it leaves strength and thresholds as they are" in told
