"""Tenants' own terms: heeded by workers that run, for that tenant's jobs alone, without a query for each job."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from jobs.queue.tenants import forget_tenant, set_tenant
from tests.factories import lanes_of
from tests.worker.contexts import images_of, jobs_of, render, submit
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext

FOX = {"prompt": "a red fox", "steps": 1}
ZEBRA = {"prompt": "a z3bra on the road", "steps": 1}


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that are run meanwhile."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_a_tenants_terms_are_for_its_own_jobs(context: WorkerContext, tmp_path: Path) -> None:
    set_tenant(context.engine, "ada", prompt_terms="# hers\nzebra\n")
    rows = [ZEBRA | {"tenant": "ada"}, FOX | {"tenant": "ada"}, ZEBRA | {"tenant": "bob"}, ZEBRA]
    batch = render(context, tmp_path, rows)
    jobs = jobs_of(context.engine, batch)
    assert [job["state"] for job in jobs] == ["blocked", "done", "done", "done"]
    assert jobs[0]["error_text"] == "prompt holds 'zebra' in another spelling, a term of tenant 'ada'"
    forbidden = [FOX | {"tenant": "ada", "prompt": "a naked man"}]
    (blocked,) = jobs_of(context.engine, render(context, tmp_path, forbidden))
    assert blocked["error_text"] == "prompt holds 'naked man'", "its own terms don't replace the others"


def test_terms_that_are_set_or_removed_meanwhile_are_heeded_from_the_next_claim_on(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows, states = [ZEBRA | {"tenant": "ada"}], []
    for terms in ("", "zebra", "fox", None):
        if terms is None:
            forget_tenant(context.engine, "ada")
        else:
            set_tenant(context.engine, "ada", prompt_terms=terms)
        batch = render(context, tmp_path, rows, priority=str(len(states)))
        states += [job["state"] for job in jobs_of(context.engine, batch)]
    assert states == ["done", "blocked", "done", "done"]


def test_terms_are_read_once_a_claim(context: WorkerContext, tmp_path: Path) -> None:
    set_tenant(context.engine, "ada", prompt_terms="zebra")
    rows = [FOX | {"tenant": "ada", "seed": seed} for seed in range(12)]
    batch = submit(context.settings, context.engine, tmp_path, rows)
    (lane,) = lanes_of(context.engine, batch)
    with statements(context.engine) as seen:
        assert work(context, lane) == 12
    reads = sum("prompt_terms" in statement for statement in seen)
    assert 0 < reads < 6


def test_other_actions_deliver_the_picture_with_the_reason(context: WorkerContext, tmp_path: Path) -> None:
    set_tenant(context.engine, "ada", prompt_terms="zebra")
    (image,) = images_of(
        context.engine, render(context, tmp_path, [ZEBRA | {"tenant": "ada"}], safety="blacken")
    )
    assert (image["safety_verdict"], image["watermark"]) == ("blackened", None)
    assert image["safety_reason"] == "prompt holds 'zebra' in another spelling, a term of tenant 'ada'"
