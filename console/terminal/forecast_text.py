"""What a plan says about when a batch would end, in words."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from console.terminal.output import counted, duration, plural
from console.terminal.schedule_text import clock
from jobs.forecast.forecast_result import THIS_MACHINE
from jobs.policy.batch_policy import BatchPolicy
from jobs.suggest_names_and_shorten_lists import some_of

_MEASURE_FIRST = (
    "render a few such rows first (`nightmill run` with a short manifest), or submit with `--canary 20` and look at "
    "`nightmill status` when these are done"
)
_MOST_NAMED = 5
_SHORTEST_RANGE_S = 60


def schedule_of(policy: BatchPolicy) -> dict[str, str]:
    """Return when and how the batch is to be worked at, without defaults."""
    facts = {
        "priority": str(policy.priority) if policy.priority else None,
        "window": policy.window,
        "not before": clock(policy.not_before),
        "deadline": clock(policy.deadline),
        "canary": f"the first {plural(policy.canary, 'row')}" if policy.canary else None,
    }
    return {name: text for name, text in facts.items() if text}


def forecast_facts(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what is told of a forecast's report, line by line."""
    facts = {
        "ends": ends_said(found),
        "workers": _workers(found),
        "ahead": _ahead(found),
        "time": _worker_time(found),
        "cost": _range(found["cost_low"], found["cost_high"], lambda value: f"{value:.2f}"),
        "energy": _range(found["joules_low"], found["joules_high"], lambda value: f"{value / 3.6e6:.2f} kWh"),
    }
    return {name: text for name, text in facts.items() if text}


def verdict_note(found: Mapping[str, Any]) -> str | None:
    """Return what is to be noted if the deadline isn't sure to be met."""
    if found["verdict"] in (None, "fits"):
        return None
    if found["verdict"] == "unknown":
        return "warning: whether the deadline is met can't be told"
    return f"warning: the batch {_miss(found)}"


def pace_cells(lane: Mapping[str, Any]) -> tuple[str, str]:
    """Return the cells of a lane: seconds of a worker for an image, and what that rests on."""
    if not lane["is_served"]:
        return "?", "no worker's pool serves it"
    if lane["source"] is None:
        where = (
            f", only on {', '.join(filter(None, lane['measured_on']))}" if any(lane["measured_on"]) else ""
        )
        return "?", f"not measured{where}"
    ends = f"{lane['image_s_low']:.3g}", f"{lane['image_s_high']:.3g}"
    seconds = " to ".join(dict.fromkeys(ends))
    if lane["source"] == THIS_MACHINE:
        return seconds, "this machine, by the models' arithmetic"
    rests_on = f"{lane['device'] or 'workers'}, {plural(lane['images'], 'image')}"
    rests_on += ", other steps" * lane["is_scaled_by_steps"] + ", other LoRAs" * lane["has_other_loras"]
    return seconds, rests_on


def ends_said(found: Mapping[str, Any]) -> str:
    """Say when the batch ends and what that means for its deadline."""
    earliest, latest = found["ends_at_earliest"], found["ends_at_latest"]
    if found["jobs_unmeasured"]:
        known = f"not before {_moment(earliest)}: " if earliest else ""
        images = plural(found["jobs_unmeasured"], "image")
        if not all(lane["is_served"] for lane in found["lanes"]):
            return f"{known}not estimated: no worker's pool serves {', '.join(_not_served(found))}"
        return f"{known}not estimated, as no worker has measured the lanes of {images}: {_MEASURE_FIRST}"
    if earliest is None:
        return "not within 400 days" if found["workers"] else "never: no pool serves its models"
    text = (
        f"between {_moment(earliest)} and {_moment(latest)}"
        if latest
        else f"{_moment(earliest)} at the earliest"
    )
    if latest and _seconds(earliest, latest) < _SHORTEST_RANGE_S:
        text = f"about {_moment(latest)}"
    return "; ".join(part for part in (text, _in_windows(found), _about_deadline(found)) if part)


def _not_served(found: Mapping[str, Any]) -> list[str]:
    return sorted({lane["model"] for lane in found["lanes"] if not lane["is_served"]})


def _about_deadline(found: Mapping[str, Any]) -> str:
    if found["verdict"] is None:
        return ""
    if found["verdict"] == "fits":
        return f"{duration(found['spare_s'])} to spare"
    return _miss(found)


def _miss(found: Mapping[str, Any]) -> str:
    """Say by how much the deadline is or may be missed, and how many workers would do."""
    most, least = found["spare_s"], found["spare_s_at_most"]
    by = "" if most is None else f" by {duration(-most)}"
    if found["verdict"] == "may miss":
        text = f"may miss its deadline{by.replace(' by ', ' by up to ')}"
    else:
        text = "misses its deadline" + (by if least is None or most is None else _by(-least, -most))
    needed = found["more_workers_needed"]
    if needed:
        return f"{text}; {plural(needed, 'worker')} more would do, started now"
    return (
        f"{text}; more workers alone wouldn't do" if needed is None and not found["jobs_unmeasured"] else text
    )


def _by(least: float, most: float) -> str:
    if most - least < _SHORTEST_RANGE_S:
        return f" by {duration(most)}"
    return f" by {duration(least)} to {duration(most)}"


def _in_windows(found: Mapping[str, Any]) -> str:
    least, most = found["windows_at_least"], found["windows_at_most"]
    if most is None or most == 1:
        return ""
    number = f"{most}" if least == most else f"{least} to {most}"
    return f"doesn't fit into one window: {number} of them" if least != 1 else "may not fit into one window"


def _workers(found: Mapping[str, Any]) -> str:
    text = f"{found['workers']:,} now"
    if found["is_worker_assumed"]:
        text = "none now: counted with one"
    if found["workers_left_out"]:
        text += f", without {counted(found['workers_left_out'])}"
    for device, number in found["workers_not_measured"].items():
        text += f"; {plural(number, 'worker')} on {device} not counted: nothing measured there, or in another pool"
    return text


def _ahead(found: Mapping[str, Any]) -> str:
    names = found["batches_ahead"]
    if not names:
        return ""
    text = f"{plural(found['jobs_ahead'], 'image')} of {some_of(names, _MOST_NAMED)}"
    if found["jobs_ahead_unmeasured"]:
        text += f"; {found['jobs_ahead_unmeasured']:,} of them not counted, as no worker has measured them"
    return text


def _worker_time(found: Mapping[str, Any]) -> str:
    return _range(found["worker_s_low"], found["worker_s_high"], duration, " of one worker")


def _range(low: float | None, high: float | None, said: Any, after: str = "") -> str:
    if low is None or high is None:
        return ""
    texts = list(dict.fromkeys((said(low), said(high))))
    return f"about {' to '.join(texts)}{after}"


def _moment(text: str) -> str:
    return str(clock(datetime.fromisoformat(text)))


def _seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
