"""Images and prompts that a content-safety service rates: what flags, what is never charged, what isn't sent twice."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.content_safety import circuit_breaker, client
from jobs.policy.batch_policy import BatchPolicy
from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from tests.content_safety_server import KEY, Request, Service, content_safety_server
from tests.factories import states
from tests.worker.contexts import files_in, images_of, jobs_of, only_lane, render, submit, worker_context_for
from tests.worker.stages.test_further_checkers import scores_of_block
from tests.worker.test_judge import FOX, NOTHING, judged, work_off
from worker import content_safety_requests
from worker.health import retry_while_service_is_unavailable
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

BOTH = BatchPolicy(safety_checkers="content-safety,content-safety-prompts").safety_checkers or ""
SAFE = {"Hate": 0, "SelfHarm": 0, "Sexual": 0, "Violence": 0}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service; the pauses between requests are short."""
    monkeypatch.setattr(client, "_PAUSES_S", (0.0,))
    monkeypatch.setattr(circuit_breaker, "BREAK_S", 0.0)
    monkeypatch.setattr(retry_while_service_is_unavailable, "_PAUSES_S", (0.02,))
    with content_safety_server() as server:
        yield server


@pytest.fixture
def context(
    settings: Settings, models_folder: Path, model_cache: ModelCache, engine: Engine, service: Service
) -> Iterator[WorkerContext]:
    """A worker that knows the service."""
    update = {"models_dir": models_folder, "retry_delay_s": 0, "content_safety_url": service.url}
    environment = settings.model_copy(update=update).environment() | {"NIGHTMILL_CONTENT_SAFETY_KEY": KEY}
    given = {
        name.removeprefix("NIGHTMILL_").lower(): text
        for name, text in environment.items()
        if name.startswith("NIGHTMILL_")
    }
    with worker_context_for(Settings(**given), engine, model_cache) as context:
        yield context
        if context.content_safety:
            context.content_safety.close()


def is_probe(request: Request) -> bool:
    return request.content in ("a landscape", client._PROBE)


def images_sent(service: Service) -> list[Request]:
    return [request for request in service.of_kind("image") if not is_probe(request)]


def test_images_and_prompts_are_rated_and_the_row_says_how(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    service.rate = lambda request: {"Violence": 2} if request.kind == "image" else {"Hate": 2}
    batch = render(context, tmp_path, [FOX, FOX | {"seed": 8}], safety_checkers=BOTH)
    for row in images_of(context.engine, batch):
        assert row["safety_verdict"] == "safe"
        assert row["safety_scores"]["labels"] == {
            "content-safety": SAFE | {"Violence": 2},
            "content-safety-prompts": SAFE | {"Hate": 2},
        }
        assert {"content_safety_of_images", "content_safety_of_prompts"} <= row["timings"].keys()
    asked = sorted(str(request.content) for request in service.of_kind("text"))
    assert asked == ["a landscape", "a red fox"], "a probe, and each prompt once"
    assert len(images_sent(service)) == 2


@pytest.mark.parametrize("action", ["block", "flag", "blacken"])
def test_a_severity_that_reaches_the_threshold_flags(
    context: WorkerContext, service: Service, tmp_path: Path, action: str
) -> None:
    service.rate = lambda request: {"Violence": 2} if request.kind == "image" else {}
    batch = render(context, tmp_path, [FOX], safety=action, safety_checkers="content-safety:Violence=2")
    (job,) = jobs_of(context.engine, batch)
    reason = "safety checker: content-safety:Violence at 2"
    if action == "block":
        assert (job["state"], job["error_kind"], job["error_text"]) == ("blocked", "safety", reason)
        (scores,) = scores_of_block(context, batch)
        assert scores["labels"] == {"content-safety": SAFE | {"Violence": 2}}
        assert not files_in(Path(context.settings.output))
    else:
        (row,) = images_of(context.engine, batch)
        assert row["safety_verdict"] == {"flag": "flagged", "blacken": "blackened"}[action]
        assert row["safety_reason"] == reason


def test_a_prompt_that_is_blocked_is_not_rendered_until_another_policy_frees_it(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    service.rate = lambda request: {"Violence": 4} if request.content == "a fight" else {}
    rows = [FOX, FOX | {"prompt": "a fight"}]
    batch = render(context, tmp_path, rows, safety_checkers=BOTH)
    _, job = jobs_of(context.engine, batch)
    assert (job["state"], job["error_text"]) == (
        "blocked",
        "safety checker: content-safety-prompts:Violence at 4",
    )
    assert len(images_sent(service)) == 1
    lenient = BOTH.replace("-prompts:Violence=4", "-prompts:Violence=6")
    assert judged(context, batch, None, checkers=lenient).queued == 1
    work_off(context, batch)
    assert len(images_of(context.engine, batch)) == 2
    assert judged(context, batch, None, checkers=BOTH).blocked == 1
    assert states(context.engine) == {"done": 1, "blocked": 1}


def test_a_flagged_prompt_is_delivered_with_its_reason(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    service.rate = lambda request: {"Sexual": 6} if request.kind == "text" else {}
    batch = render(context, tmp_path, [FOX], safety="flag", safety_checkers="content-safety-prompts")
    (row,) = images_of(context.engine, batch)
    assert row["safety_verdict"] == "flagged"
    assert row["safety_reason"] == "safety checker: content-safety-prompts:Sexual at 6"


def test_while_the_service_is_away_images_wait_and_are_not_rendered_again(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    failed: list[Request] = []

    def away(request: Request) -> dict[str, int]:
        if not is_probe(request) and len(failed) < 5:
            failed.append(request)
            return {"Violence": -1}  # no severity
        return {}

    service.rate = away
    batch = render(context, tmp_path, [FOX | {"seed": n} for n in range(6)], safety_checkers="content-safety")
    rows = images_of(context.engine, batch)
    assert [job["attempt"] for job in jobs_of(context.engine, batch)] == [1] * 6
    assert len(rows) == 6
    assert len(failed) == 5
    assert unhealthy_workers(context.engine) == []


def test_a_service_that_stays_away_charges_no_job_and_is_probed_before_anything_is_rendered(
    context: WorkerContext, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_while_service_is_unavailable, "PATIENCE_S", 0.1)
    batch = submit(context.settings, context.engine, tmp_path, [FOX] * 3, safety_checkers="content-safety")
    lane = only_lane(context.engine, batch)

    def leaves(request: Request) -> dict[str, int]:
        service.is_down = not is_probe(request)
        return {"Hate": -1} if service.is_down else {}

    service.rate = leaves
    work(context, lane)
    asked = len(images_sent(service))
    assert asked >= 1
    assert "doesn't answer" in unhealthy_workers(context.engine)[0].reason
    for _ in range(3):
        work(context, lane)
    assert all(job["attempt"] == 0 or job["state"] == "done" for job in jobs_of(context.engine, batch))
    assert len(images_sent(service)) == asked, "nothing was rendered"
    service.is_down, service.rate = False, lambda _: {}
    while states(context.engine) != {"done": 3}:
        work(context, lane)
    assert unhealthy_workers(context.engine) == []
    assert [job["attempt"] for job in jobs_of(context.engine, batch)] == [1] * 3


def test_a_service_that_goes_while_prompts_are_rated_charges_no_job(
    context: WorkerContext, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_while_service_is_unavailable, "PATIENCE_S", 0.1)

    def leaves(request: Request) -> dict[str, int]:
        service.is_down = True
        return {"Hate": -1}

    rows = [FOX | {"seed": n} for n in range(3)]
    batch = submit(context.settings, context.engine, tmp_path, rows, safety_checkers="content-safety-prompts")
    lane = only_lane(context.engine, batch)
    service.rate = leaves
    for _ in range(2):
        work(context, lane)
    assert [(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)] == [("queued", 0)] * 3
    assert "content-safety service" in unhealthy_workers(context.engine)[0].reason
    service.is_down, service.rate = False, lambda _: {}
    while states(context.engine) != {"done": 3}:
        work(context, lane)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_one_that_the_service_alone_fails_at_fails_its_own_job(
    context: WorkerContext, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(content_safety_requests, "ALONE_S", 0.1)
    poison: list[Request] = []

    def fails(request: Request) -> dict[str, int]:
        if (
            request.kind == kind
            and not is_probe(request)
            and (not poison or request.content == poison[0].content)
        ):
            poison.append(request)
            return {"Hate": -1}
        return {}

    service.rate = fails
    rows = [FOX | {"prompt": f"fox {n}"} for n in range(5)]
    batch = render(context, tmp_path, rows, safety_checkers=BOTH, max_attempts="1")
    ended = sorted((job["state"], job["error_kind"] or "") for job in jobs_of(context.engine, batch))
    assert ended == [("done", "")] * 4 + [("failed", "safety")]
    (failed,) = [job for job in jobs_of(context.engine, batch) if job["state"] == "failed"]
    assert failed["error_text"].endswith(
        "without a severity for each category, and does so at this one alone"
    )
    sent = [request.content for request in images_sent(service)]
    others = {content for content in sent if content != poison[0].content}
    assert sum(content in others for content in sent) == len(others), "what was rated isn't sent again"


def test_a_refused_key_gives_images_back_at_once(
    context: WorkerContext, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, refused = service.answer, list[Request]()

    def refuses(request: Request) -> tuple[int, bytes, dict[str, str]]:
        if is_probe(request):
            return plain(request)
        refused.append(request)
        return 401, b"", {}

    service.answer = refuses  # type: ignore[method-assign]
    batch = submit(context.settings, context.engine, tmp_path, [FOX], safety_checkers="content-safety")
    work(context, only_lane(context.engine, batch))
    assert [(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)] == [("queued", 0)]
    assert len(refused) == 1
    assert "refuses the key" in caplog.text


def test_images_wait_while_prompts_cant_be_rated(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    """What is rendered already isn't thrown away when the service goes."""
    service.rate = lambda _: {}
    rows = [FOX | {"prompt": f"fox {n}"} for n in range(12)]
    batch = submit(context.settings, context.engine, tmp_path, rows, safety_checkers=BOTH)
    failures = [0]

    def away(request: Request) -> dict[str, int]:
        if len(images_sent(service)) >= 2 and failures[0] < 30:
            failures[0] += 1
            return {"Hate": -1}
        return {}

    service.rate = away
    assert work(context, only_lane(context.engine, batch)) == 12
    assert [(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)] == [("done", 1)] * 12
    assert failures[0] == 30


def test_a_stop_while_prompts_are_rated_ends_the_session(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> dict[str, int]:
        if not is_probe(request):
            asked.set()
            go_on.wait(60)
        return {}

    service.rate = slow
    rows = [FOX | {"prompt": f"fox {n}"} for n in range(20)]
    batch = submit(context.settings, context.engine, tmp_path, rows, safety_checkers="content-safety-prompts")
    session = threading.Thread(target=work, args=(context, only_lane(context.engine, batch)))
    session.start()
    assert asked.wait(60)
    context.stopping.set()
    session.join(30)
    is_over = not session.is_alive()
    go_on.set()
    assert is_over
    assert [(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)] == [("queued", 0)] * 20
    assert len(service.of_kind("text")) < 20, "what nobody waits for isn't sent"


def test_what_the_service_refuses_fails_its_own_job_alone(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    rows = [FOX | {"prompt": f"a fox {n}"} for n in range(3)]
    batch = submit(
        context.settings,
        context.engine,
        tmp_path,
        rows,
        safety_checkers="content-safety-prompts",
        safety="flag",
        max_attempts="1",
    )
    plain = service.answer

    def refuses(request: Request) -> tuple[int, bytes, dict[str, str]]:
        if request.content == "a fox 1":
            return 400, b'{"error": {"code": "InvalidRequestBody", "message": "no such text"}}', {}
        return plain(request)

    service.answer = refuses  # type: ignore[method-assign]
    work_off(context, batch)
    first, refused, last = jobs_of(context.engine, batch)
    assert [first["state"], last["state"]] == ["done", "done"]
    assert (refused["state"], refused["error_kind"]) == ("failed", "safety")
    assert "refuses this text: 400 (InvalidRequestBody)" in refused["error_text"]


def test_a_worker_without_the_service_leaves_the_batch_alone(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    own = context.settings.model_copy(update={"content_safety_url": None})
    without = replace(context, settings=own)
    batch = submit(own, context.engine, tmp_path, [FOX], safety_checkers="content-safety")
    work(without, only_lane(context.engine, batch))
    assert "set NIGHTMILL_CONTENT_SAFETY_URL" in unhealthy_workers(context.engine)[0].reason
    assert [(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)] == [("queued", 0)]
    assert service.requests == []


def test_what_was_withheld_is_not_sent(context: WorkerContext, service: Service, tmp_path: Path) -> None:
    rows = [FOX | {"model": "flagged"}]
    batch = render(context, tmp_path, rows, safety="blur", safety_checkers="content-safety")
    (row,) = images_of(context.engine, batch)
    assert row["safety_verdict"] == "blurred"
    assert images_sent(service) == []


def test_what_goes_to_quarantine_is_sent_once_it_is_freed(
    context: WorkerContext, service: Service, tmp_path: Path
) -> None:
    rows = [FOX | {"model": "flagged"}]
    batch = render(context, tmp_path, rows, safety="quarantine", safety_checkers="content-safety")
    assert (images_sent(service), states(context.engine)) == ([], {"blocked": 1})
    (file,) = files_in(Path(context.settings.output))
    assert "quarantine" in str(file)
    freed = judged(context, batch, NOTHING)
    assert (freed.restored, freed.queued) == (0, 1), "the service hasn't rated it"
    work_off(context, batch)
    (row,) = images_of(context.engine, batch)
    assert (len(images_sent(service)), row["safety_scores"]["labels"]) == (1, {"content-safety": SAFE})
