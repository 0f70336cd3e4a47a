"""Format a batch's schedule for display."""

from datetime import datetime

from console.terminal.output import duration, note
from jobs.batches.status import BatchStatus


def schedule_facts(status: BatchStatus) -> dict[str, object]:
    """Return priority, window, start, deadline, canary and so on for display; without those at their defaults."""
    facts = {
        "priority": status.priority or None,
        "window": status.window,
        "starts": clock(status.starts_at),
        "deadline": clock(status.deadline),
        "canary": status.canary_verdict,
        "stopped": status.stopped_because,
        "archived": clock(status.archived_at),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def warn_of_deadline(status: BatchStatus) -> None:
    """Print a warning if a batch has missed its deadline or is expected to."""
    if not status.misses_deadline or status.deadline is None:
        return
    if status.deadline <= status.now:
        note(f"warning: {status.name} is late, it was due {clock(status.deadline)}")
        return
    late_s = (status.eta_s or 0) - (status.deadline - status.now).total_seconds()
    note(f"warning: {status.name} will miss its deadline, {clock(status.deadline)}, by {duration(late_s)}")


def clock(moment: datetime | None) -> str | None:
    """Format a moment in the local time zone."""
    return None if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M %Z")
