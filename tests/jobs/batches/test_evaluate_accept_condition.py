"""Images that a batch's `accept` doesn't accept stay, don't count to its target, and are replaced."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from jobs.batches import actions, evaluate_accept_condition
from jobs.batches.accepted_image_quotas import make_up, short, shortfall
from jobs.batches.drop_jobs_and_delete_batches import archive, delete
from jobs.batches.evaluate_accept_condition import AcceptanceJudge, check_accept, judge_all, rejected
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId, Job
from jobs.policy.batch_policy import BatchPolicy
from jobs.queue import transitions
from scheduler.ingest.ingest import Ingested
from tests.factories import change, failure, image, lane_differences, lanes_of, look, make_batch, states, take

BOTH = "clip_score > 24 and not duplicate"


def take_all(engine: Engine, batch: Ingested) -> list[Job]:
    return [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]


def store(engine: Engine, job: Job, score: float | None = 30, phash: str | None = "0" * 16) -> None:
    quality = None if score is None else {"clip_score": score, "clip_model": "judge"}
    transitions.complete(engine, [image(job, quality=quality, phash=phash)])


def verdicts(engine: Engine) -> list[bool]:
    return [
        row["is_accepted"]
        for row in look(engine, "SELECT is_accepted FROM image_acceptance ORDER BY image_id")
    ]


def far(number: int) -> str:
    """Hashes that are far from one another, and from zeros."""
    return f"{int(np.random.default_rng(number).integers(2**63, 2**64, dtype=np.uint64)):016x}"


class TestVerdicts:
    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            ("clip_score > 24", [True, False, False, True, True]),
            ("not duplicate", [True, True, False, False, False]),
            (BOTH, [True, False, False, False, False]),
            # The first one isn't accepted, so that those that look like it are no duplicates.
            ("duplicate or clip_score < 24", [False, True, False, False, False]),
            ("duplicate = false and width = 64", [True, True, False, False, False]),
        ],
    )
    def test_images_are_judged_in_their_order(
        self, engine: Engine, accept: str, expected: list[bool]
    ) -> None:
        batch = make_batch(engine, 5, target=5, accept=accept)
        given = [(30.0, far(1)), (20.0, far(2)), (None, far(1)), (30.0, far(1)), (30.0, None)]
        for job, (score, phash) in zip(take_all(engine, batch), given, strict=True):
            store(engine, job, score, phash)
        assert judge_all(engine, batch.id) == 5
        assert verdicts(engine) == expected
        assert judge_all(engine, batch.id) == 0

    def test_a_duplicate_is_near_an_accepted_image_only(self, engine: Engine) -> None:
        batch = make_batch(engine, 3, target=3, accept=BOTH)
        for job, score in zip(take_all(engine, batch), (10, 30, 30), strict=True):
            store(engine, job, score)
        judge_all(engine, batch.id)
        assert verdicts(engine) == [False, True, False]
        first, third = rejected(engine, batch.id, 10)
        assert (first["ordinal"], first["duplicate_of"]) == (0, None)
        assert (third["ordinal"], third["duplicate_of"]) == (2, 2)
        assert third["uri"].endswith(".png")

    def test_duplicates_are_named_only_if_the_condition_asks_for_them(self, engine: Engine) -> None:
        batch = make_batch(engine, 3, target=3, accept="clip_score > 24")
        for job, score in zip(take_all(engine, batch), (30, 30, 10), strict=True):
            store(engine, job, score)
        judge_all(engine, batch.id)
        assert verdicts(engine) == [True, True, False]
        assert [row["duplicate_of"] for row in rejected(engine, batch.id, 10)] == [None]

    @pytest.mark.parametrize(("distance", "expected"), [(4, [True, False]), (3, [True, True])])
    def test_how_near_a_duplicate_is_may_be_set(
        self, engine: Engine, distance: int, expected: list[bool]
    ) -> None:
        batch = make_batch(engine, 2, target=2, accept="not duplicate", duplicate_distance=distance)
        for job, phash in zip(take_all(engine, batch), ("8" + "0" * 15, "f" + "0" * 14 + "1"), strict=True):
            store(engine, job, phash=phash)
        judge_all(engine, batch.id)
        assert verdicts(engine) == expected

    def test_accepted_images_are_pairwise_apart_however_they_come(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In pages, by one judge that goes on, and by judges of several processes."""
        monkeypatch.setattr(evaluate_accept_condition, "PAGE", 7)
        batch = make_batch(engine, 60, target=60, accept="not duplicate")
        rng = np.random.default_rng(1)
        centres = rng.integers(0, 2**64, 10, dtype=np.uint64)
        judges = [AcceptanceJudge(engine) for _ in range(3)]
        for number, job in enumerate(take_all(engine, batch)):
            flipped = int(centres[rng.integers(10)])
            for bit in rng.integers(0, 64, rng.integers(0, 5)):
                flipped ^= 1 << int(bit)
            store(engine, job, phash=f"{flipped:016x}")
            if number % 5 == 0:
                with ThreadPoolExecutor(3) as pool:
                    list(pool.map(lambda judge: judge.judge(), judges))
        judge_all(engine, batch.id)
        hashes = [
            int(row["phash"], 16)
            for row in look(
                engine,
                "SELECT phash FROM images JOIN image_acceptance ON image_id = images.id WHERE is_accepted",
            )
        ]
        assert len(verdicts(engine)) == 60
        assert 10 <= len(hashes) < 60
        apart = np.bitwise_count(np.array(hashes, np.uint64)[:, None] ^ np.array(hashes, np.uint64))
        assert apart[~np.eye(len(hashes), dtype=bool)].min() > 4

    def test_an_image_that_is_rendered_again_is_no_duplicate_of_itself(self, engine: Engine) -> None:
        batch = make_batch(engine, 1, target=1, accept="not duplicate")
        judge = AcceptanceJudge(engine)
        store(engine, *take_all(engine, batch))
        assert judge.judge() == 1
        (row,) = look(engine, "SELECT id, key FROM images")
        assert transitions.render_again(engine, batch.id, [(row["id"], row["key"])], "gone") == 1
        assert verdicts(engine) == []
        store(engine, *take_all(engine, batch))
        assert judge.judge() == 1
        assert verdicts(engine) == [True]

    def test_an_image_whose_transaction_ends_late_is_judged(self, engine: Engine) -> None:
        batch = make_batch(engine, 2, target=2, accept="clip_score > 24")
        judge = AcceptanceJudge(engine)
        first, second = take_all(engine, batch)
        store(engine, first)
        assert judge.judge() == 1
        store(engine, second)
        change(engine, "UPDATE images SET created_at = created_at - interval '1 hour' WHERE ordinal = 1")
        assert judge.judge() == 1
        assert judge.judge() == 0

    def test_only_batches_that_ask_for_it_are_judged(self, engine: Engine) -> None:
        batch = make_batch(engine, 1, target=1)
        store(engine, *take_all(engine, batch))
        assert AcceptanceJudge(engine).judge() == 0

    def test_a_judge_leaves_a_batch_to_the_one_that_is_at_it(self, engine: Engine) -> None:
        batch = make_batch(engine, 1, target=1, accept="clip_score > 24")
        store(engine, *take_all(engine, batch))
        with engine.begin() as connection, ThreadPoolExecutor(1) as pool:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:key, 1)"), {"key": evaluate_accept_condition._LOCK}
            )
            assert AcceptanceJudge(engine).judge() == 0
            waiting = pool.submit(judge_all, engine, batch.id)
            connection.commit()
            assert waiting.result() == 1

    def test_a_condition_of_a_later_version_stops_no_other_batch(
        self, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        for accept in ("clip_score > 24", "clip_score > 25"):
            store(engine, *take_all(engine, make_batch(engine, 1, target=1, accept=accept)))
        change(engine, """UPDATE batches SET policy = policy || '{"accept": "beauty > 3"}' WHERE id = 1""")
        assert AcceptanceJudge(engine).judge() == 1
        assert "image rows have no column 'beauty'" in caplog.text


class TestTargets:
    def test_a_target_of_accepted_and_distinct_images_is_reached(self, engine: Engine) -> None:
        """Every third image is blocked, every fourth has a low score, every fifth looks like the first."""
        rows = [{"prompt": f"cat {i}", "label": "cat"} for i in range(4)]
        rows += [{"prompt": f"dog {i}", "label": "dog"} for i in range(4)]
        batch = make_batch(engine, rows, target=4, target_per="label", accept=BOTH, max_replacement_ratio=10)
        number = 0
        while jobs := take_all(engine, batch):
            for job in jobs:
                number += 1
                if number % 3 == 0:
                    transitions.block(engine, [failure(job)])
                else:
                    phash = "0" * 16 if number % 5 == 0 else far(number)
                    store(engine, job, 20 if number % 4 == 0 else 30, phash)
            make_up(engine, batch.id)
        assert short(engine, batch.id) == []
        assert lane_differences(engine) == []
        found = look(
            engine,
            "SELECT meta ->> 'label' AS label, count(*) AS n FROM jobs JOIN image_acceptance a ON job_id = jobs.id"
            " WHERE is_accepted GROUP BY 1 ORDER BY 1",
        )
        assert found == [{"label": "cat", "n": 4}, {"label": "dog", "n": 4}]
        assert states(engine)["done"] > 8
        kept = look(engine, "SELECT count(*) AS n FROM images")[0]["n"]
        assert kept == states(engine)["done"]

    def test_replacements_end_at_the_cap(self, engine: Engine) -> None:
        batch = make_batch(engine, 4, target=4, accept="clip_score > 99", max_replacement_ratio=1.5)
        while jobs := take_all(engine, batch):
            for job in jobs:
                store(engine, job)
            make_up(engine, batch.id)
        assert states(engine) == {"done": 10}
        assert short(engine, batch.id) == [{"value": "", "target": 4, "accepted": 0, "on_their_way": 0}]
        assert shortfall(engine, batch.id) == (4, 1)

    def test_what_is_not_judged_yet_is_on_its_way(self, engine: Engine) -> None:
        batch = make_batch(engine, 2, target=3, accept="clip_score > 24")
        for job in take_all(engine, batch)[:2]:
            store(engine, job)
        assert short(engine, batch.id) == [{"value": "", "target": 3, "accepted": 0, "on_their_way": 3}]
        judge_all(engine, batch.id)
        assert short(engine, batch.id) == [{"value": "", "target": 3, "accepted": 2, "on_their_way": 1}]

    def test_each_image_is_replaced_once(self, engine: Engine) -> None:
        batch = make_batch(engine, 20, target=20, accept="clip_score > 99")
        for job in take_all(engine, batch):
            store(engine, job)
        with ThreadPoolExecutor(4) as pool:
            made = sum(pool.map(lambda _: make_up(engine, batch.id), range(4)))
        assert made == 20
        assert make_up(engine) == 0

    @pytest.mark.parametrize("ends", [archive, delete])
    def test_a_judged_batch_can_be_archived_and_deleted(
        self, engine: Engine, ends: Callable[[Engine, Any], object]
    ) -> None:
        batch = make_batch(engine, 1, target=1, accept="clip_score > 24")
        store(engine, *take_all(engine, batch))
        judge_all(engine, batch.id)
        ends(engine, actions.status(engine, batch.name))
        assert len(verdicts(engine)) == (1 if ends is archive else 0)
        assert judge_all(engine, BatchId(batch.id)) == 0


class TestCondition:
    @pytest.mark.parametrize(
        "accept", [BOTH, "duplicate = false", "meta.label in ('a', 'b') or not (duplicate)"]
    )
    def test_conditions(self, accept: str) -> None:
        check_accept(BatchPolicy(target=1, accept=accept))

    @pytest.mark.parametrize(
        ("accept", "said"),
        [
            ("clip_score >", "expected a value"),
            ("not duplicat", "did you mean 'duplicate'"),
            ("duplicate > 3", "is a bool"),
            ("duplicate; DROP TABLE jobs", "is neither a name nor a value nor an operator"),
        ],
    )
    def test_wrong_ones(self, accept: str, said: str) -> None:
        with pytest.raises(UsageError, match="--set accept") as error:
            check_accept(BatchPolicy(target=1, accept=accept))
        assert said in str(error.value)

    def test_it_needs_a_target(self) -> None:
        with pytest.raises(ValueError, match="accept needs a target"):
            BatchPolicy(accept=BOTH)
