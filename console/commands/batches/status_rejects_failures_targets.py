"""Commands that show batches: status, rejects, failures, targets."""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from console.broker_problems_while_waiting import BrokerCheck
from console.command_options import Batch, Json, one_of, since
from console.command_options_from_dataclass import takes
from console.process_control import background_up
from console.session import Session, session
from console.several_batches.batch_selection_options import FilterOptions
from console.several_batches.watch_until_still import watch_until_still
from console.terminal.note_unknown_tenant import note_unknown_tenant
from console.terminal.output import (
    counted,
    duration,
    lane_cells,
    note,
    plural,
    print_facts,
    print_json,
    print_table,
    short_said,
)
from console.terminal.progress import summary
from console.terminal.schedule_text import clock, pause_reasons, schedule_facts, warn_of_deadline
from jobs.batches import actions
from jobs.batches.accepted_image_quotas import short, shortfall
from jobs.batches.actions import BatchStatus
from jobs.batches.dead_letters import failures as dead_letters
from jobs.batches.dead_letters import kinds
from jobs.batches.evaluate_accept_condition import rejected as rejected_images
from jobs.batches.selection.batch_filters import BatchFilter, find_batches
from jobs.db.engine import database_time
from jobs.errors import UsageError
from jobs.queue.lane_counts_and_low_watermarks import lanes
from jobs.queue.sum_usage import usage_of
from jobs.report.failures_since import failure_kinds_since, failures_since
from jobs.states import BatchState, ErrorKind, JobState
from jobs.webhooks.registry import shown

SHOWN_FOR_S = 86_400
"""How long `status` lists a batch that has ended without being asked for all."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(FilterOptions):
    """The batches that `status` shows: one, or those that meet the filters."""

    batch: Annotated[str | None, typer.Argument(help="name or number; none: those that meet the filters")] = (
        None
    )
    all_: Annotated[
        bool, typer.Option("--all", help="also batches that ended over a day ago; so does --since")
    ] = False

    def check(self) -> None:
        """Raise UsageError for filters beside a batch."""
        if self.batch is not None and (self.all_ or self.filter() != BatchFilter()):
            raise UsageError("--all and filters such as --tag list batches: it takes no batch beside them")

    def find(self, engine: Engine) -> list[BatchStatus]:
        """Return the batches to show."""
        if self.batch is not None:
            return [actions.status(engine, self.batch)]
        return actions.statuses(engine, self._shown())

    def hidden(self, engine: Engine) -> int:
        """Return how many batches meet the filters and aren't shown, as they ended long ago."""
        if self.batch is not None or self._shown() == self.filter():
            return 0
        return len(find_batches(engine, self.filter())) - len(find_batches(engine, self._shown()))

    def _shown(self) -> BatchFilter:
        wanted = self.filter()
        if self.all_ or self.since is not None:
            return wanted
        return replace(wanted, is_open_or_ended_within_s=SHOWN_FOR_S)


@takes(StatusOptions)
def status(
    options: StatusOptions,
    watch: Annotated[bool, typer.Option(help="keep looking until none of them can go on by itself")] = False,
    as_json: Json = False,
) -> None:
    """Where batches stand. Without BATCH or --all, those that are open or ended within a day."""
    options.check()
    with session() as open_session:
        if watch:
            _watch(open_session, options)
        broker = BrokerCheck(open_session.settings)
        found = options.find(open_session.engine)
        if options.batch is None:
            note_unknown_tenant(open_session.engine, options.tenant)
            _show_all(found, as_json)
            if hidden := options.hidden(open_session.engine):
                what = plural(hidden, "batch", "batches")
                verb = "isn't" if hidden == 1 else "aren't"
                note(f"{what} that ended over a day ago {verb} shown: --all shows all")
        else:
            _show_one(open_session, found[0], as_json)
        for one in found:
            broker.look(one)
        for trouble in background_up.slowed(open_session.settings):
            note(trouble)


def rejects(batch: Batch, as_json: Json = False) -> None:
    """The rows of the manifest that could not be used, and why."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        rows = actions.rejects(open_session.engine, found.id)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("line", "column", "reason", "row"),
        [(r["line"], r["column"], r["reason"], r["excerpt"]) for r in rows],
    )
    note(f"{len(rows):,} of {found.rows:,} rows of {found.manifest} rejected")


def failures(
    batch: Annotated[
        str | None, typer.Argument(help="name or number; none: all batches, with --since")
    ] = None,
    since_: Annotated[
        str, typer.Option("--since", metavar="TIME|AGE", help='of all batches: "22:00", 12h')
    ] = "12h",
    error: Annotated[
        str | None, typer.Option(metavar="KIND", help="only jobs that ended with this error")
    ] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="of all batches: this tenant's")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many to show")] = 20,
    as_json: Json = False,
) -> None:
    """Jobs that failed for good or were blocked, with the history of their attempts."""
    kind = error and one_of("--error", error, tuple(ErrorKind))
    if batch is None:
        _show_failures_since(since_, kind, tenant, limit, as_json)
        return
    if tenant is not None:
        raise UsageError("--tenant is for the failures of all batches, and goes without BATCH")
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        dead = dead_letters(open_session.engine, found.id, kind, limit=limit)
        by_kind = kinds(open_session.engine, found.id)
    if as_json:
        print_json({"kinds": by_kind, "failures": dead})
        return
    print_table(
        ("error", "state", "jobs"), [(k["error_kind"], k["state"], f"{k['jobs']:,}") for k in by_kind]
    )
    for job in dead:
        note(f"job {job['job']}, row {job['ordinal']}, {job['state']}: {job['prompt'][:60]}")
        for tried in job["history"]:
            took = f"{tried['outcome']} on {tried['worker'] or 'no worker'}, {tried['ended_at'][:19]}"
            note(f"  attempt {tried['attempt']}: {took}: {tried['error_kind']}: {tried['error_text']}")
        if not job["history"] and job["error_text"]:
            note(f"  {job['error_text']}")
        if job["quarantined"]:
            note(f"  its image is in quarantine: {found.output}/{job['quarantined']}")
    total = sum(k["jobs"] for k in by_kind if kind is None or k["error_kind"] == kind)
    if total > len(dead):
        note(f"and {total - len(dead):,} more: --limit {total} shows them")
    if not by_kind:
        note(f"no job of {found.name} has failed or was blocked")
    if dead and found.archived_at is None:
        note(f"`nightmill retry {found.name} --only KIND` queues them again")


def _show_failures_since(
    moment: str, kind: str | None, tenant: str | None, limit: int, as_json: bool
) -> None:
    with session() as open_session:
        began = since("--since", moment, database_time(open_session.engine))
        note_unknown_tenant(open_session.engine, tenant)
        by_kind = failure_kinds_since(open_session.engine, began, tenant, kind)
        dead = failures_since(open_session.engine, began, tenant, kind, limit=limit)
    if as_json:
        print_json({"since": began, "kinds": by_kind, "failures": dead})
        return
    columns = ("error", "state", "jobs", "batches", "what to do")
    print_table(
        columns,
        [
            (k["error_kind"], k["state"], f"{k['jobs']:,}", ", ".join(k["batches"]), k["advice"])
            for k in by_kind
        ],
    )
    for job in dead:
        note(
            f"{job['batch']}, job {job['job']}, row {job['ordinal']}, {job['state']} on "
            f"{job['worker'] or 'no worker'}: {job['error_kind']}: {job['error_text']}"
            + (f"; its image is in quarantine: {job['quarantined']}" if job["quarantined"] else "")
        )
    if not by_kind:
        note(f"no job has failed or was blocked since {clock(began)}")


def targets(
    batch: Batch,
    limit: Annotated[int, typer.Option(min=1, help="how many to show")] = 20,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="the images that `accept` didn't accept, instead")
    ] = False,
    as_json: Json = False,
) -> None:
    """Values of a batch's column that lack accepted images, the emptiest first; reads all its jobs."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        if rejected:
            _show_rejected(rejected_images(open_session.engine, found.id, limit), as_json)
            return
        lacking = short(open_session.engine, found.id, limit=limit)
    if as_json:
        print_json(lacking)
        return
    columns = ("value", "accepted", "target", "on their way")
    print_table(columns, [(s["value"], s["accepted"], s["target"], s["on_their_way"]) for s in lacking])
    note(f"{len(lacking)} values lack images" if lacking else "no value lacks images")


def _show_rejected(images: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(images)
        return
    columns = ("image", "row", "index", "near image", "file")
    names = ("image_id", "ordinal", "index", "duplicate_of", "uri")
    print_table(columns, [[image[name] for name in names] for image in images])


def _show_all(found: list[BatchStatus], as_json: bool) -> None:
    if as_json:
        print_json([status.report() for status in found])
        return
    for status in found:
        if status.remaining:
            warn_of_deadline(status)
    _print_batches(found)
    for status in found:
        if status.state == BatchState.PAUSED and (why := pause_reasons(status)):
            note(f"{status.name} is paused: {why}")
        if status.waiting:
            note(f"{status.name} waits, no worker can go on: {status.waiting}")
    _warn_of_workers(found)


def _warn_of_workers(found: list[BatchStatus]) -> None:
    for worker in next((status.unhealthy for status in found if status.unhealthy), ()):
        note(f"worker {worker.name} is unhealthy since {worker.since:%H:%M:%S}: {worker.reason}")


def _print_batches(found: list[BatchStatus]) -> None:
    """Print a table of batches; columns that none of them has a value for are left out, as terminals are narrow."""
    more: dict[str, list[str | None]] = {
        "deadline": [clock(status.deadline) for status in found],
        "ended": [None if status.remaining else clock(status.ended_at) for status in found],
        "tenant": [", ".join(status.tenants) for status in found],
    }
    shown = {name: cells for name, cells in more.items() if any(cells)}
    columns = ("batch", "name", "state", *JobState, "rejected", "images/s", "ETA", *shown)
    rows = zip(found, zip(*shown.values(), strict=True) if shown else [()] * len(found), strict=True)
    print_table(columns, [(*_row(status), *cells) for status, cells in rows])


def _row(status: BatchStatus) -> tuple[object, ...]:
    counts = (f"{status.counts[state]:,}" for state in JobState)
    speed = f"{status.images_per_s:.2f}" if status.remaining else ""
    left = duration(status.eta_s) if status.remaining else ""
    return status.id, status.name, status.state, *counts, f"{status.rejected:,}", speed, left


def _show_one(open_session: Session, status: BatchStatus, as_json: bool) -> None:
    troubles = dead_letters(open_session.engine, status.id)
    found = lanes(open_session.engine, status.id)
    found_short = None if status.remaining else shortfall(open_session.engine, status.id)
    lacking = found_short and found_short.report()
    used = usage_of(open_session.engine, status.id)
    if as_json:
        told = {"usage": used, "lanes": found, "failures": troubles, "short": lacking}
        print_json(status.report() | told)
        return
    print_facts(
        {
            "batch": f"{status.name} (number {status.id})",
            "state": status.state,
            "jobs": summary(status),
            "rows": f"{status.rows:,}, {status.rejected:,} rejected",
            "manifest": status.manifest,
            "output": f"{status.output}/{status.folder}",
            **(
                {"tenant": ", ".join(tenants)}
                if (tenants := [each for each in status.tenants if each])
                else {}
            ),
            **({"on end": shown(hook)} if (hook := json.loads(status.policy).get("on_end")) else {}),
            **({"tags": ", ".join(status.tags)} if status.tags else {}),
        }
        | schedule_facts(status)
        | usage_facts(used)
    )
    warn_of_deadline(status)
    if said := short_said(status.name, lacking):
        note(said)
    _warn_of_workers([status])
    print_table(
        ("tenant", "model", "mode", "LoRA", "size", "upscale", "s/image", "jobs"),
        [(lane["tenant"], *lane_cells(lane), _pace(lane), counted(lane["counts"])) for lane in found],
    )
    if troubles:
        columns = ("job", "row", "state", "error", "text", "prompt")
        rows = [
            (t["job"], t["ordinal"], t["state"], t["error_kind"], t["error_text"], t["prompt"][:60])
            for t in troubles
        ]
        print_table(columns, rows)


def usage_facts(used: dict[str, Any]) -> dict[str, object]:
    """Return worker time, device time and energy for display; nothing if nothing was used."""
    if not used["worker_s"]:
        return {}
    energy = "" if used["joules"] is None else f", {used['joules'] / 3.6e6:.3g} kWh"
    return {
        "used": f"{duration(used['worker_s'])} of workers, {duration(used['device_s'])} of devices{energy}"
    }


def _pace(lane: dict[str, Any]) -> str:
    return "" if lane["image_s"] is None else f"{lane['image_s']:.3g}"


def _watch(open_session: Session, options: StatusOptions) -> None:
    found, reasons = watch_until_still(
        open_session,
        lambda: options.find(open_session.engine),
        give_up_s=open_session.settings.give_up_s,
    )
    for one in found:
        if why := (reasons or {}).get(one.id):
            note(f"{one.name} doesn't go on by itself: {why}")
