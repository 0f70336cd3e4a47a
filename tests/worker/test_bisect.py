from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from jobs.errors import LeaseLostError, ObjectStoreError
from jobs.job_dataclasses import BatchId, Job, JobId, LaneId
from jobs.states import ErrorKind
from models.errors import (
    CheckpointError,
    InterruptedRender,
    OutOfMemoryError,
    SafetyUnknownError,
)
from worker.bisect import isolated, kind_of, run_stage
from worker.item import PipelineItem


def items(count: int) -> list[PipelineItem]:
    return [
        PipelineItem(
            Job(
                id=JobId(number),
                batch_id=BatchId(1),
                lane_id=LaneId(1),
                ordinal=number,
                index=0,
                attempt=1,
                lease=uuid4(),
                prompt="fox",
                negative_prompt="",
                steps=2,
                guidance_scale=1.0,
                sampler="ddim",
                seed=1,
                noise_level=None,
            )
        )
        for number in range(count)
    ]


class Stage:
    """Passes items on, except for bad ones, on which it fails; records how many it was given at a time."""

    def __init__(self, bad: set[int], error: BaseException) -> None:
        self.bad = bad
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, given: Sequence[PipelineItem]) -> list[PipelineItem]:
        self.sizes.append(len(given))
        if any(item.job.id in self.bad for item in given):
            raise self.error
        return [item.spent("inner", 1.0) for item in given]


@pytest.mark.parametrize("bad", [{0}, {3}, {7}, {2, 5}, set(range(8)), set()])
def test_only_the_items_to_blame_end(bad: set[int]) -> None:
    done = isolated(Stage(bad, ValueError("odd")), items(8))
    assert [item.job.id for item in done] == list(range(8))
    assert {item.job.id for item in done if item.end} == bad
    assert all(item.timings == {"inner": 1.0} for item in done if not item.end)
    for item in done:
        assert not item.end or (item.end.kind, item.end.text) == (ErrorKind.EXCEPTION, "ValueError: odd")


def test_one_bad_item_of_many_takes_few_tries() -> None:
    stage = Stage({5}, ValueError())
    isolated(stage, items(64))
    assert len(stage.sizes) == 1 + 2 * 6


@pytest.mark.parametrize("error", [InterruptedRender("stop"), LeaseLostError("gone")])
def test_being_told_to_stop_is_no_failure(error: Exception) -> None:
    stage = Stage({1}, error)
    with pytest.raises(type(error)):
        isolated(stage, items(4))
    assert stage.sizes == [4]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemoryError("no memory"), ErrorKind.OUT_OF_MEMORY),
        (SafetyUnknownError("can't tell"), ErrorKind.SAFETY),
        (CheckpointError("no file"), ErrorKind.MODEL),
        (ObjectStoreError("refused"), ErrorKind.OBJECT_STORE),
        (OSError("disk full"), ErrorKind.EXCEPTION),
        (RuntimeError("shapes"), ErrorKind.EXCEPTION),
    ],
)
def test_kinds_of_errors(error: Exception, kind: ErrorKind) -> None:
    assert kind_of(error) == kind
    (ended,) = isolated(Stage({0}, error), items(1))
    assert ended.end is not None
    assert ended.end.kind == kind
    assert not ended.end.is_block


def test_a_stage_notes_the_share_of_its_time() -> None:
    done = run_stage("stage", Stage({1}, ValueError()), items(2))
    assert all(0 <= item.timings["stage"] < 5 for item in done)
    assert done[0].timings["stage"] == done[1].timings["stage"]


def test_no_items_no_trouble() -> None:
    nothing: list[Any] = run_stage("stage", Stage(set(), ValueError()), [])
    assert nothing == []


def test_a_library_that_wants_to_end_the_process_fails_one_job() -> None:
    """Were it let through, the worker would end and give the job back uncharged, to the next one."""
    done = isolated(Stage({1}, SystemExit(0)), items(3))
    ends = [item.end for item in done]
    assert [end and (end.kind, end.text) for end in ends] == [
        None,
        (ErrorKind.EXCEPTION, "SystemExit: 0"),
        None,
    ]
