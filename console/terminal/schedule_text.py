"""Format a batch's schedule for display."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from console.terminal.output import duration, note
from jobs.batches.status import BatchStatus
from jobs.queue.pauses import BY_NAME, OF_ALL
from jobs.states import BatchState


def schedule_facts(status: BatchStatus) -> dict[str, object]:
    """Return priority, window, start, deadline, canary and so on for display; without those at their defaults."""
    facts = {
        "priority": status.priority or None,
        "window": status.window,
        "starts": clock(status.starts_at),
        "deadline": clock(status.deadline),
        "started": clock(status.started_at),
        "ended": clock(status.ended_at),
        "canary": status.canary_verdict,
        "paused": pauses_said(status),
        "stopped": status.stopped_because,
        "archived": clock(status.archived_at),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def pauses_said(status: BatchStatus) -> str | None:
    """Return who has paused a batch, since when, with which others, and why; None if it isn't paused by anybody."""
    if status.state != BatchState.PAUSED:
        return None
    return "; ".join(_pause_said(each) for each in status.standing_pauses) or None


def pause_reasons(status: BatchStatus) -> str:
    """Return why a batch is paused, as far as that was said; empty if it wasn't."""
    given = [each["reason"] for each in status.standing_pauses if each["reason"]]
    return "; ".join([*([status.stopped_because] if status.stopped_because else []), *given])


def _pause_said(pause: Mapping[str, Any]) -> str:
    with_others = {BY_NAME: "", OF_ALL: ", with all"}.get(
        pause["by"], f", with {pause['by'].replace(':', ' ', 1)}"
    )
    who = f" by {pause['who']}" if pause["who"] else ""
    why = f": {pause['reason']}" if pause["reason"] else ""
    return f"since {clock(datetime.fromisoformat(pause['at']))}{who}{with_others}{why}"


def warn_of_deadline(status: BatchStatus) -> None:
    """Print a warning if a batch has missed its deadline or is expected to."""
    if not status.misses_deadline or status.deadline is None:
        return
    if status.late_s is not None:
        was = "is" if status.remaining else "ended"
        note(
            f"warning: {status.name} {was} {duration(status.late_s)} late, it was due {clock(status.deadline)}"
        )
        return
    late_s = (status.eta_s or 0) - (status.deadline - status.now).total_seconds()
    note(f"warning: {status.name} will miss its deadline, {clock(status.deadline)}, by {duration(late_s)}")


def clock(moment: datetime | None) -> str | None:
    """Format a moment in the local time zone."""
    return None if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M %Z")
