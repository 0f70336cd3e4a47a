"""What a policy makes of stored scores: SQL decides as the worker does, and says what it can't judge."""

import random
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import BatchId, Failure, LaneId
from jobs.policy.safety_thresholds import SafetyThresholds
from jobs.queue import transitions
from jobs.safety_reevaluation.select_changed_verdicts import (
    blocked_images,
    count_blocked_images,
    count_freed_jobs,
    freed_jobs,
)
from jobs.states import ErrorKind, SafetyStrength
from tests.factories import image, lanes_of, look, make_batch, take

STANDARD = SafetyThresholds()
POLICIES = [
    STANDARD,
    SafetyThresholds.of(SafetyStrength.STRONG, None),
    SafetyThresholds.of(SafetyStrength.LENIENT, None),
    SafetyThresholds.of(SafetyStrength.STANDARD, "all=0.003,3=0.02,16=-0.05,special_care.1=-0.012"),
    SafetyThresholds.of(SafetyStrength.STRONG, "special_care.0=0.007,special_care.2=-0.03"),
]


def near_zero(rng: random.Random) -> dict[str, list[float]]:
    """Scores around 0, so that every rule decides now and then, by one thousandth, too."""
    return {
        "concepts": [rng.choice([-0.2] * 30 + [rng.randrange(-45, 45) / 1000]) for _ in range(17)],
        "special_care": [rng.choice([-0.2, rng.randrange(-30, 30) / 1000]) for _ in range(3)],
    }


@pytest.fixture(scope="module")
def all_scores() -> list[dict[str, list[float]]]:
    rng = random.Random(5)
    return [near_zero(rng) for _ in range(400)]


def rendered(engine: Engine, scores: list[Any]) -> BatchId:
    """A batch of images with these scores."""
    batch = make_batch(engine, len(scores))
    for job in take(engine, lanes_of(engine, batch)[0], len(scores)):
        transitions.complete(engine, [image(job, safety_scores=scores[job.ordinal])])
    return batch.id


def blocked(engine: Engine, scores: list[Any]) -> BatchId:
    """A batch of blocked jobs with these scores."""
    batch = make_batch(engine, len(scores))
    jobs = take(engine, lanes_of(engine, batch)[0], len(scores))
    transitions.block(
        engine, [Failure(job.id, job.lease, ErrorKind.SAFETY, "found", scores[job.ordinal]) for job in jobs]
    )
    return batch.id


def test_sql_blocks_and_frees_what_a_worker_would(engine: Engine, all_scores: list[Any]) -> None:
    images, jobs = rendered(engine, all_scores), blocked(engine, all_scores)
    for policy in POLICIES:
        flagged = [number for number, scores in enumerate(all_scores) if policy.above(scores)]
        assert 20 < len(flagged) < 380
        found = [each for page in blocked_images(engine, images, policy, 64) for each in page]
        assert [each.ordinal for each in found] == flagged
        assert all(dict(each.above) == policy.above(all_scores[each.ordinal]) for each in found)
        counts = count_blocked_images(engine, images, policy)
        assert (counts.jobs, counts.changed, counts.without_scores) == (400, len(flagged), 0)
        reasons = [number for each in found for number in each.above]
        assert counts.by_concept == {number: reasons.count(number) for number in sorted(set(reasons))}
        freed = [each for page in freed_jobs(engine, jobs, policy, STANDARD, 64) for each in page]
        assert [each.ordinal for each in freed] == [n for n in range(400) if n not in set(flagged)]
        free = count_freed_jobs(engine, jobs, policy, STANDARD)
        assert (free.changed, free.jobs) == (400 - len(flagged), 400)
        before = [number for each in freed for number in STANDARD.above(all_scores[each.ordinal])]
        assert free.by_concept == {number: before.count(number) for number in sorted(set(before))}


WITH_LABELS = [
    SafetyThresholds.of(SafetyStrength.STANDARD, None, "a:x=0.5"),
    SafetyThresholds.of(SafetyStrength.LENIENT, None, 'a:x=0.502,a:it\'s \\ "y"=0.5,content-safety:Hate=4'),
    SafetyThresholds.of(SafetyStrength.STRONG, None, "a:x=2,gone:z=0.1,content-safety-prompts:Hate=2"),
]


def with_labels(rng: random.Random) -> dict[str, Any]:
    """Scores around the thresholds; now and then of a prompt alone, without a label, or with what is no score."""
    labels = {
        "a": rng.choice(
            [
                {"x": rng.randrange(496, 506) / 1000, 'it\'s \\ "y"': rng.choice([0.1, 0.5])},
                {"x": "0.9"},
                {},
                3,
                None,
            ]
        ),
        "content-safety": {"Hate": rng.choice([0, 2, 4, 6]), "Violence": 6},
        "content-safety-prompts": {"Hate": rng.choice([0, 0, 2])},
    }
    return rng.choice(
        [
            near_zero(rng) | {"labels": labels},
            near_zero(rng),
            {"labels": labels},
            near_zero(rng) | {"labels": []},
        ]
    )


def has_all(scores: dict[str, Any], policy: SafetyThresholds) -> bool:
    labels = scores.get("labels", {}) or {}
    found = [
        (labels.get(checker) or {}).get(label) if isinstance(labels.get(checker), dict) else None
        for checker, wanted in policy.labels.items()
        for label in wanted
    ]
    return "concepts" in scores and all(isinstance(score, int | float) for score in found)


def test_sql_judges_labels_as_a_worker_does(engine: Engine) -> None:
    rng = random.Random(7)
    given = [with_labels(rng) for _ in range(400)]
    images, jobs = rendered(engine, given), blocked(engine, given)
    for policy in WITH_LABELS:
        flagged = [number for number, scores in enumerate(given) if policy.above(scores)]
        assert 20 < len(flagged) < 380
        found = [each for page in blocked_images(engine, images, policy, 64) for each in page]
        assert [each.ordinal for each in found] == flagged
        assert all(dict(each.above) == policy.above(given[each.ordinal]) for each in found)
        counts = count_blocked_images(engine, images, policy)
        complete = [
            number for number, scores in enumerate(given) if number in flagged or has_all(scores, policy)
        ]
        assert counts.without_scores == 400 - len(complete), "what can't be told"
        reasons = [concept for each in found for concept in each.above]
        assert counts.by_concept == {concept: reasons.count(concept) for concept in set(reasons)}
        freed = [each for page in freed_jobs(engine, jobs, policy, WITH_LABELS[0], 64) for each in page]
        assert [each.ordinal for each in freed] == [n for n in range(400) if n not in set(flagged)]
        free = count_freed_jobs(engine, jobs, policy, WITH_LABELS[0])
        assert (free.changed, free.without_scores) == (400 - len(flagged), 0)
        before = [concept for each in freed for concept in WITH_LABELS[0].above(given[each.ordinal])]
        assert free.by_concept == {concept: before.count(concept) for concept in set(before)}


@pytest.mark.parametrize(
    "unusable",
    [
        None,
        {},
        {"concepts": [0.5] * 17},
        {"concepts": [0.5] * 16, "special_care": [0.5] * 3},
        {"concepts": [0.5] * 17, "special_care": []},
        {"concepts": "none", "special_care": 3},
        {"concepts": [None] + [0.5] * 16, "special_care": [0.5] * 3},
        {"concepts": [0.5] * 17, "special_care": [0.5, None, 0.5]},
        {"concepts": ["0.5"] + [0.5] * 16, "special_care": [0.5] * 3},
        {"concepts": [[0.5]] + [0.5] * 16, "special_care": [0.5] * 3},
        [],
        "none",
    ],
)
def test_what_has_no_scores_is_counted_and_left_alone(engine: Engine, unusable: Any) -> None:
    everything = SafetyThresholds.of(SafetyStrength.STANDARD, "all=2")
    images = rendered(engine, [unusable])
    counts = count_blocked_images(engine, images, everything)
    assert (counts.jobs, counts.changed, counts.without_scores) == (1, 0, 1)
    assert list(blocked_images(engine, images, everything)) == []
    jobs = blocked(engine, [unusable])
    nothing = SafetyThresholds.of(SafetyStrength.STANDARD, "all=-2")
    counts = count_freed_jobs(engine, jobs, nothing, STANDARD)
    assert (counts.jobs, counts.changed, counts.without_scores) == (1, 0, 1)
    assert list(freed_jobs(engine, jobs, nothing, STANDARD)) == []


def test_of_a_job_that_was_blocked_twice_the_last_scores_count(engine: Engine) -> None:
    low, high = ({"concepts": [score] * 17, "special_care": [-0.2] * 3} for score in (0.01, 0.5))
    batch = blocked(engine, [low])
    lenient = SafetyThresholds.of(SafetyStrength.LENIENT, None)
    assert count_freed_jobs(engine, batch, lenient, STANDARD).changed == 1
    transitions.retry(engine, batch, ["blocked"], None)
    (job,) = take(engine, LaneId(look(engine, "SELECT lane_id FROM jobs")[0]["lane_id"]))
    transitions.block(engine, [Failure(job.id, job.lease, ErrorKind.SAFETY, "found", high)])
    assert count_freed_jobs(engine, batch, lenient, STANDARD).changed == 0
