"""Look at batches until none of them can go on by itself: all have ended, are paused, or no worker takes them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rich.live import Live
from rich.text import Text
from sqlalchemy import Engine

from console.broker_problems_while_waiting import BrokerCheck
from console.session import Session
from console.terminal.output import duration, err, note
from console.terminal.progress import summary
from console.terminal.schedule_text import pause_reasons
from jobs.batches.accepted_image_quotas import make_up
from jobs.batches.status import BatchStatus, status
from jobs.job_dataclasses import BatchId
from jobs.queue.worker_registry import workers
from jobs.states import BatchState

POLL_S = 1.0
LINES_S = 15.0
"""Between two lines where there is no terminal."""
_NO_WORKER = "there is no worker; `nightmill worker` starts one"


@dataclass
class StuckBatches:
    """Finds batches that no worker has been able to go on with for `give_up_s` seconds; None: waits for ever."""

    engine: Engine
    give_up_s: float | None
    _since: dict[int, float] = field(default_factory=dict)

    def why(self, batch: BatchStatus) -> str | None:
        """Return why the batch is stuck; None if it isn't, or not for long enough."""
        reason = None if self.give_up_s is None else self._reason(batch)
        if reason is None or self.give_up_s is None:
            self._since.pop(batch.id, None)
            return None
        for_s = time.monotonic() - self._since.setdefault(batch.id, time.monotonic())
        return f"for {duration(for_s)} now: {reason}" if for_s >= self.give_up_s else None

    def _reason(self, batch: BatchStatus) -> str | None:
        if batch.starts_at is not None or batch.counts["running"]:
            return None
        if batch.waiting is not None:
            return batch.waiting
        is_any = any(not worker.is_lost for worker in workers(self.engine))
        return None if is_any else _NO_WORKER


def still(batch: BatchStatus, stuck: StuckBatches) -> str | None:
    """Return why a batch won't go on by itself, "" if it has ended; None if it may."""
    if not batch.remaining:
        return ""
    if batch.state == BatchState.PAUSED and not batch.counts["running"]:
        why = pause_reasons(batch)
        return "paused" + (f": {why}" if why else "")
    return stuck.why(batch)


class LinesNowAndThen:
    """Where stderr is no terminal: says how things are when that has changed, not too often."""

    def __init__(self, every_s: float = LINES_S) -> None:
        self._every_s, self._due, self._last = every_s, time.monotonic() + every_s, ""

    def show(self, text: str) -> None:
        """Say the text if it is another one than before and the last one was long enough ago."""
        if err.is_terminal or text == self._last or time.monotonic() < self._due:
            return
        note(text)
        self._last, self._due = text, time.monotonic() + self._every_s


def watch_until_still(
    open_session: Session,
    look: Callable[[], Sequence[BatchStatus]],
    *,
    give_up_s: float | None = None,
    timeout_s: float | None = None,
) -> tuple[Sequence[BatchStatus], Mapping[BatchId, str] | None]:
    """Show batches on stderr until none can go on by itself; returns their last status, and by id why each can't.

    The reasons are None if `timeout_s` passed first.
    """
    broker, stuck = BrokerCheck(open_session.settings), StuckBatches(open_session.engine, give_up_s)
    until = None if timeout_s is None else time.monotonic() + timeout_s
    shown = LinesNowAndThen()
    with Live(console=err, refresh_per_second=4, transient=True) as live:
        while True:
            found = open_session.patiently(look)
            text = "\n".join(f"{one.name}: {one.state}, {summary(one)}" for one in found)
            live.update(Text(text if err.is_terminal else ""))
            shown.show(text)
            reasons = {one.id: open_session.patiently(partial(still, one, stuck)) for one in found}
            known = {batch: why for batch, why in reasons.items() if why is not None}
            if len(known) == len(found):
                return found, known
            if until is not None and time.monotonic() >= until:
                return found, None
            for one in found:
                broker.look(one)
            time.sleep(POLL_S if until is None else min(POLL_S, max(0.0, until - time.monotonic())))


def current_status(engine: Engine, batch: BatchStatus) -> BatchStatus:
    """Return the batch's current status; if all its jobs have ended, queue replacements where they are due."""
    found = status(engine, batch.name)
    if not found.remaining and make_up(engine, found.id):
        found = status(engine, batch.name)
    return found
