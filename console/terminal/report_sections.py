"""The sections of a report as tables of text, the same for a terminal and for Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from console.terminal.output import counted, duration, plural

MOST_ROWS = 12
"""Rows of a section that are shown: a report is to fit on a screen. JSON has them all."""
_KWH = 3.6e6


@dataclass(frozen=True)
class Section:
    """A heading, a table, and what is said below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: str = ""


def sections(report: Mapping[str, Any]) -> list[Section]:
    """Return the sections that have rows: batches, failures, workers, usage, messages that nobody took."""
    made = (_batches(report), _failures(report), _workers(report), _usage(report), _untold(report))
    return [section for section in made if section.rows]


def headline(report: Mapping[str, Any]) -> str:
    """Say in one line what the period was, how many batches there are and what is wrong."""
    batches, begun = report["batches"], _clock(report["since"])
    verdicts = [batch["verdict"] for batch in batches]
    bad = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    of = f" of {report['tenant']}" if report["tenant"] is not None else ""
    told = f"{plural(len(batches), 'batch', 'batches')}{of}" + (f" ({counted(bad)})" if bad else "")
    until = datetime.fromisoformat(report["until"]).astimezone()
    return f"{begun} to {until:%Y-%m-%d %H:%M %Z}: {told}"


def _batches(report: Mapping[str, Any]) -> Section:
    rows = [
        (
            batch["verdict"],
            batch["name"],
            ", ".join(filter(None, batch["tenants"])),
            f"{batch['counts']['done']:,}",
            f"{sum(batch['counts'].values()):,}",
            f"{batch['counts']['blocked']:,}",
            _clock(batch["ended_at"] or batch["ends_at"]),
            _why(batch),
        )
        for batch in report["batches"]
    ]
    columns = ("batches", "name", "tenant", "done", "of", "blocked", "end", "what is the matter")
    return Section("Batches", columns, *_shortened(rows))


def _why(batch: Mapping[str, Any]) -> str:
    return "; ".join(_reasons(batch))


def _reasons(batch: Mapping[str, Any]) -> Iterator[str]:
    if batch["late_s"]:
        yield f"{duration(batch['late_s'])} late"
    elif batch["misses_deadline"]:
        yield f"due {_clock(batch['deadline'])}"
    elif batch["misses_deadline"] is None and batch["deadline"]:
        yield f"due {_clock(batch['deadline'])}, no estimate yet"
    if batch["short"]:
        yield f"short by {plural(batch['short']['images'], 'image')}"
    if batch["counts"]["failed"]:
        yield f"{batch['counts']['failed']:,} failed"
    if batch["rejected"]:
        yield f"{batch['rejected']:,} of {plural(batch['rows'], 'row')} rejected"
    yield from batch["paused_because"]
    if batch["stopped_because"]:
        yield batch["stopped_because"]
    if batch["waiting"]:
        yield batch["waiting"]


def _failures(report: Mapping[str, Any]) -> Section:
    rows = [
        (
            f["error_kind"],
            f["state"],
            f"{f['jobs']:,}",
            ", ".join(f["batches"]),
            f["example"] or "",
            f["advice"],
        )
        for f in report["failures"]
    ]
    return Section(
        "Failures", ("error", "state", "jobs", "batches", "for example", "what to do"), *_shortened(rows)
    )


def _workers(report: Mapping[str, Any]) -> Section:
    rows = [
        (
            worker["worker"],
            worker["device"],
            worker["state"],
            f"{worker['images']:,}",
            "" if worker["images_per_s"] is None else f"{worker['images_per_s']:.3g}",
            "; ".join(_troubles(worker)),
        )
        for worker in report["workers"]
    ]
    return Section(
        "Workers", ("worker", "device", "state", "images", "images/s", "what happened"), *_shortened(rows)
    )


def _troubles(worker: Mapping[str, Any]) -> Iterator[str]:
    if worker["lost_at"]:
        yield f"died at {_clock(worker['lost_at'])}"
    if worker["jobs_lost"]:
        yield f"{plural(worker['jobs_lost'], 'job')} taken from it"
    if worker["unhealthy_spells"]:
        yield f"unhealthy {worker['unhealthy_spells']} times: {worker['reason']}"


def _usage(report: Mapping[str, Any]) -> Section:
    rows = [
        (
            use["tenant"],
            use["device"],
            duration(use["worker_s"]),
            duration(use["device_s"]),
            f"{use['images']:,}",
            "" if use["joules"] is None else f"{use['joules'] / _KWH:.3g}",
            "" if use["cost"] is None else f"{use['cost']:.2f}",
        )
        for use in report["usage"]
    ]
    columns = ("tenant", "device", "worker time", "device time", "images", "kWh", "cost")
    shown, more = _shortened(rows)
    since = f"time slices that ended since {_clock(report['usage_since'])}"
    return Section("Usage", columns, shown, f"{more}; {since}" if more else since)


def _untold(report: Mapping[str, Any]) -> Section:
    rows = [
        (
            each["url"],
            each["event"],
            each["state"],
            str(each["attempts"]),
            each["error"],
            _clock(each["next_try_at"]),
        )
        for each in report["untold"]
    ]
    columns = ("not told", "event", "state", "attempts", "why", "next try")
    return Section("Messages that nobody took", columns, *_shortened(rows))


def _shortened(rows: Sequence[Sequence[str]]) -> tuple[Sequence[Sequence[str]], str]:
    left = len(rows) - MOST_ROWS
    return rows[:MOST_ROWS], f"and {left:,} more: --format json has them all" if left > 0 else ""


def _clock(moment: str | datetime | None) -> str:
    if moment is None:
        return ""
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return at.astimezone().strftime("%Y-%m-%d %H:%M")
