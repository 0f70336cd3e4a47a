"""Broken twins: the product with one guard taken out, to see that the experiment misses it.

A process of the tests takes out the guard that CHAOS_TWIN names; the product knows nothing of it. Each imports what it
breaks by itself: processes that are no twins start faster without.
"""

import os
from collections.abc import Callable
from typing import Any

TWIN = "CHAOS_TWIN"


def _no_rescue() -> None:
    """Jobs of dead workers stay theirs."""
    from scheduler import loop

    loop.rescue_all = lambda _: 0


def _no_renewal() -> None:
    """Leases run out under workers that live."""
    from jobs.queue import transitions

    transitions.extend = lambda _, held, __: {job for job, _ in held}


def _wakeup_once() -> None:
    """Redis is believed to keep what it was told."""
    from scheduler.send_wakeups import Dispatcher

    send, sent = Dispatcher._send, set[int]()

    def once(self: Any, lane: Any, queue: str) -> None:
        if lane not in sent:
            send(self, lane, queue)
        sent.add(lane)

    Dispatcher._send = once  # type: ignore[method-assign]


def _no_fence() -> None:
    """A statement that is tried again doesn't ask whose the job is by now."""
    from sqlalchemy import text

    from jobs.queue import transitions

    open_to_all = str(transitions._COMPLETE).replace(" AND jobs.lease = given.lease", "")
    transitions._COMPLETE = text(open_to_all.replace("ORDER BY j.id", "ORDER BY j.id ON CONFLICT DO NOTHING"))


def _no_release() -> None:
    """A worker that stops keeps what it holds."""
    from worker.liveness.lease_keeper import LeaseKeeper

    LeaseKeeper._give_back = lambda *_: None  # type: ignore[method-assign]


def _no_watchdog() -> None:
    """Nobody looks whether children make steps."""
    from worker.liveness import watchdog

    watchdog.Watchdog.start = lambda _: None  # type: ignore[method-assign]


def _no_small_company() -> None:
    """Jobs whose worker died are claimed with all others."""
    from sqlalchemy import text

    from jobs.queue import transitions

    everything, share = (
        str(transitions._CLAIMS[0][0]).replace("error_kind IS DISTINCT FROM 'crash'", "true"),
        transitions._CLAIMS[0][1],
    )
    transitions._CLAIMS = ((text(everything), share),)


def _plain_channel() -> None:
    """What lies in Redis is believed, as Celery does."""
    from kombu.transport.redis import Transport

    from worker import celery_app

    celery_app.WakeupTransport = Transport  # type: ignore[misc,assignment]


def _charged() -> None:
    """What keeps a lane from starting is charged to its jobs, as any error is."""
    from jobs.states import ErrorKind
    from worker.item import PipelineItem
    from worker.lanes.lane_session import LaneSession

    render = LaneSession.render

    def charging(self: Any, lane: Any, jobs: Any) -> None:
        try:
            self.context.model_cache.lane_models(lane)
        except Exception as error:
            self._stage_runner._charge([PipelineItem(job).ended(ErrorKind.MODEL, str(error)) for job in jobs])
            return
        render(self, lane, jobs)

    LaneSession.render = charging  # type: ignore[method-assign]


def _no_breaker() -> None:
    """A worker that fails at everything is believed."""
    from worker.health.fault_attribution import CircuitBreaker, Judgement

    CircuitBreaker.failed = lambda _, items: Judgement(items)  # type: ignore[method-assign]


def _impatient() -> None:
    """A worker waits for PostgreSQL as briefly as a command does."""
    from jobs.db import engine

    engine.wait_while_away = lambda *_: None


def _lane_breaker() -> None:
    """What is too little to tell by, in one lane, is its jobs' own."""
    from worker.health.fault_attribution import CircuitBreaker, Judgement

    def ended(self: Any) -> Any:
        held, self._held = self._held, []
        return Judgement(held)

    CircuitBreaker.ended = ended  # type: ignore[method-assign]


def _no_waiting() -> None:
    """What an output refuses is its job's failure, and believed to be."""
    from worker import bisect
    from worker.health.retry_while_service_is_unavailable import ServiceRetry

    ServiceRetry.stored = lambda _, __, ___, store: store()  # type: ignore[method-assign]
    bisect.is_host_fault = lambda _: False
    _no_breaker()


def _unjudged() -> None:
    """An image that the safety checker fails at passes, as one that was found safe."""
    from worker.stages.safety_checks.safety import Safety

    run = Safety.run

    def passing(self: Any, items: Any) -> Any:
        try:
            return run(self, items)
        except Exception:
            return list(items)

    Safety.run = passing  # type: ignore[method-assign]


def _unrated() -> None:
    """An image that the content-safety service can't rate passes, as one that was rated."""
    from worker.stages.safety_checks.content_safety_of_images import ContentSafetyOfImages

    by = ContentSafetyOfImages._by

    def passing(self: Any, ratings: Any, items: Any) -> Any:
        try:
            return by(self, ratings, items)
        except Exception:
            return list(items)

    ContentSafetyOfImages._by = passing  # type: ignore[method-assign]


def _no_wait() -> None:
    """The next jobs are claimed while those are delivered whose worker had died."""
    from worker.lanes.delivery import Delivery

    Delivery.wait = lambda *_: True  # type: ignore[method-assign]


_TWINS: dict[str, Callable[[], None]] = {
    "no-rescue": _no_rescue,
    "no-renewal": _no_renewal,
    "wakeup-once": _wakeup_once,
    "no-fence": _no_fence,
    "no-release": _no_release,
    "no-watchdog": _no_watchdog,
    "no-small-company": _no_small_company,
    "charged": _charged,
    "no-breaker": _no_breaker,
    "impatient": _impatient,
    "lane-breaker": _lane_breaker,
    "no-waiting": _no_waiting,
    "plain-channel": _plain_channel,
    "unjudged": _unjudged,
    "unrated": _unrated,
    "no-wait": _no_wait,
}


def become_twin() -> None:
    """Take out the guard that the environment names, if it names one."""
    if name := os.environ.get(TWIN):
        _TWINS[name]()
