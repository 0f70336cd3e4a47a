"""`nightmill run`: the main command, from a manifest to a finished image set."""

import sys
import time
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer
from sqlalchemy import Engine, text

from console.batch_folder_claim import BatchFolder
from console.broker_check import BrokerCheck
from console.command_options import Json
from console.order_from_options import order_of
from console.process_control import daemon
from console.process_control.signals import Stopped
from console.process_control.supervisor import ProcessGroup, group
from console.run_statistics import effort, truncated, write_contact_sheet
from console.session import Session, session
from console.submit_options import SubmitOptions, takes
from console.terminal.output import duration, line_sum, note, plural, print_facts, print_json, size
from console.terminal.progress import counting, summary, watching
from jobs.batches import actions
from jobs.batches.accepted_image_quotas import make_up
from jobs.batches.actions import BatchStatus
from jobs.batches.status import open_jobs
from jobs.db.engine import run as query
from jobs.errors import UsageError
from jobs.settings import Settings, load_settings
from jobs.states import BatchState
from jobs.storage.open import check_writable
from models.optional_packages import require
from scheduler.export.metadata_export import export
from scheduler.ingest.ingest import Ingested, ManyJobsError, ingest

POLL_S = 0.25
MAX_JOBS = 10_000_000


@takes(SubmitOptions)
def run(
    options: SubmitOptions,
    workers: Annotated[
        int | None, typer.Option(min=0, help="worker processes to start; default: 1, or those that are up")
    ] = None,
    as_json: Json = False,
) -> None:
    """Render a manifest: ingest, render, export, contact sheet. The same again goes on where it stopped."""
    started = time.monotonic()
    settings = load_settings()
    if _starts_workers(settings, workers):
        require("worker", instead="with --workers 0, workers elsewhere render it")
    with session(settings) as open_session:
        ingested = take_in(open_session, options)
        report = _render(open_session, ingested, workers)
    report["seconds"] = round(time.monotonic() - started, 1)
    report |= intake(ingested)
    _tell(report, as_json)
    counts = report["counts"]
    if counts["failed"] or open_jobs(counts) or not counts["done"] + counts["blocked"]:
        raise typer.Exit(1)


def take_in(open_session: Session, options: SubmitOptions) -> Ingested:
    """Ingest the manifest, with a progress counter, and report the result.

    Above MAX_JOBS jobs it asks for confirmation, unless the options say yes.
    """
    try:
        return _take_in(open_session, options, None if options.yes else MAX_JOBS)
    except ManyJobsError as many:
        if not sys.stdin.isatty() or options.manifest == "-":
            raise UsageError(f"{many}; if that is meant, say --yes") from None
        typer.confirm(f"{many}. Go on?", abort=True, err=True)
        return _take_in(open_session, options, None)


def _take_in(open_session: Session, options: SubmitOptions, max_jobs: int | None) -> Ingested:
    with (
        order_of(options, open_session.settings) as (order, rules),
        counting("ingesting", order.manifest.rows) as tell,
    ):

        def attempt() -> Ingested:
            folder = BatchFolder(open_session, order.output)
            try:
                return ingest(open_session.engine, order, rules, tell, max_jobs, folder.claim)
            except BaseException:
                folder.give_back()
                raise

        ingested = open_session.patiently(attempt)  # in one transaction, from the first row
    if ingested.is_new:
        _tell_intake(ingested)
        note(
            f"batch {ingested.name}: {plural(ingested.rows, 'row')} gave {plural(ingested.jobs, 'job')}, "
            f"{ingested.rejected:,} rejected"
        )
    else:
        note(f"batch {ingested.name}: this manifest with these settings is known, nothing is ingested twice")
        if given := list(options.schedule):
            note(
                f"its {', '.join(given)} is as it was: `nightmill change {ingested.name}` changes its schedule"
            )
    return ingested


def intake(ingested: Ingested) -> dict[str, Any]:
    """Return the counts of the manifest's lines and repeated ids, for JSON; null if the batch already existed."""
    lines = ingested.lines and ingested.lines.report(ingested.rows - ingested.rejected, ingested.rejected)
    return {"lines": lines, "repeated_ids": ingested.repeated_ids if ingested.is_new else None}


def _tell_intake(ingested: Ingested) -> None:
    if ingested.lines is not None:
        note(f"lines: {line_sum(intake(ingested)['lines'])}")
        if left_out := ingested.lines.left_out:
            note(f"columns of bytes are left out: {', '.join(left_out)}")
        if not_found := ingested.lines.not_found:
            note(f"--drop: no row has a column {', '.join(not_found)}")
    if ingested.repeated_ids:
        note(
            f"{ingested.repeated_ids:,} rows repeat the id of an earlier one; --unique-ids refuses such manifests"
        )


def _render(open_session: Session, ingested: Ingested, workers: int | None) -> dict[str, Any]:
    status = actions.status(open_session.engine, ingested.name)
    _refuse_stopped(status)
    figures: dict[str, Any] = {"rendered": 0}
    if status.remaining:
        figures = _work(open_session, status, _default_workers(open_session) if workers is None else workers)
        status = open_session.patiently(lambda: actions.status(open_session.engine, ingested.name))
    else:
        note(f"nothing to render: {summary(status)}; another --name renders the same manifest anew")
    return status.report() | figures | open_session.patiently(lambda: _results(open_session, status))


def _starts_workers(settings: Settings, workers: int | None) -> bool:
    return bool(workers) if workers is not None else daemon.running(settings) is None


def _default_workers(open_session: Session) -> int:
    if daemon.running(open_session.settings) is None:
        return 1
    note("the workers that are up do the work")
    return 0


def _refuse_stopped(status: BatchStatus) -> None:
    if status.state == BatchState.PAUSED:
        why = f" ({status.stopped_because})" if status.stopped_because else ""
        raise UsageError(f"batch {status.name} is paused{why}: `nightmill resume {status.name}` first")
    if status.state == BatchState.CANCELLED:
        raise UsageError(
            f"batch {status.name} was cancelled: `nightmill retry {status.name}` brings its jobs back"
        )


def _work(open_session: Session, status: BatchStatus, workers: int) -> dict[str, Any]:
    since: datetime = query(open_session.engine, text("SELECT now() AS now"), {})[0].now
    _check_services(open_session, status)
    with group(open_session.settings, workers) as members:
        try:
            waited_for = _wait(open_session, status, members)
        except Stopped:
            note(
                "stopping: what isn't finished goes back to the queue, and the same command goes on from there"
            )
            raise
        memory = members.peaks()
    made = open_session.patiently(lambda: effort(open_session.engine, status.id, since))
    seconds = max(made.seconds, 1e-3)
    return {
        "rendered": made.images,
        "rendering_s": round(seconds, 1),
        "rendered_per_s": round(made.images / seconds, 3),
        "drawing_share": round(made.drawing_share, 3),
        "peak_memory": memory,
        "waiting": waited_for,
    }


def _check_services(open_session: Session, status: BatchStatus) -> None:
    """Check the store and Redis, and report what would otherwise make workers wait silently or jobs fail."""
    from scheduler.broker_probe import check_redis  # noqa: PLC0415 - its libraries take time to import

    check_writable(open_session.claimed_store(status))
    broker = check_redis(open_session.settings)
    if broker.startswith("built-in"):
        note(f"no valkey-server or redis-server found: using the {broker}")


def _wait(open_session: Session, status: BatchStatus, members: ProcessGroup) -> str | None:
    """Wait until the batch has ended; return the reason if waiting was given up since no worker can continue."""
    going_at = time.monotonic()
    broker = BrokerCheck(open_session.settings)
    with watching(sum(status.counts.values())) as watch:
        while status.remaining and status.state not in (BatchState.PAUSED, BatchState.CANCELLED):
            time.sleep(POLL_S)
            members.keep_alive()
            status = open_session.patiently(partial(_current_status, open_session.engine, status))
            watch.show(status)
            broker.look(status)
            if status.waiting is None:
                going_at = time.monotonic()
            elif time.monotonic() > going_at + open_session.settings.give_up_s:
                return status.waiting
    return None


def _current_status(engine: Engine, status: BatchStatus) -> BatchStatus:
    """Return the batch's current status; if all its jobs have ended, queue replacements where they are due."""
    found = actions.status(engine, status.name)
    if not found.remaining and make_up(engine, found.id):
        found = actions.status(engine, status.name)
    return found


def _results(open_session: Session, status: BatchStatus) -> dict[str, Any]:
    store = open_session.claimed_store(status)
    with counting("exporting") as tell:
        count = iter(range(1, 10**12))
        export(
            open_session.engine,
            status,
            "parquet",
            store,
            f"{status.name}/export/",
            lambda _: tell(next(count)),
        )
    return {
        "images": store.locate(f"{status.name}/images"),
        "export": store.locate(f"{status.name}/export"),
        "contact_sheet": write_contact_sheet(open_session.engine, store, status),
        "truncated": truncated(open_session.engine, status.id),
    }


def _tell(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    counts = ", ".join(f"{count:,} {state}" for state, count in report["counts"].items() if count)
    facts = {"batch": report["name"], "jobs": counts or "none", "rejected rows": f"{report['rejected']:,}"}
    if report["rendered"]:
        memory = report["peak_memory"]
        facts["rendered"] = (
            f"{plural(report['rendered'], 'image')} in {duration(report['rendering_s'])}, "
            f"{report['rendered_per_s']:.2f}/s, "
            f"{report['drawing_share']:.0%} of the time drawing"
        )
        facts["peak memory"] = f"worker {size(memory['parent'])}, its child {size(memory['child'])}"
    if report["truncated"]:
        facts["truncated"] = (
            f"{plural(report['truncated'], 'image')}, by prompts or negative prompts that are too long"
        )
    facts |= {
        name.replace("_", " "): report[name] for name in ("images", "export", "contact_sheet") if report[name]
    }
    print_facts(facts)
    _hint(report)


def _hint(report: dict[str, Any]) -> None:
    if left := open_jobs(report["counts"]):
        if report["waiting"]:
            note(f"{left:,} jobs wait, no worker could go on: {report['waiting']}")
            note("when that is mended, the same command goes on; `nightmill cancel` ends the batch")
        else:
            note(f"{left:,} jobs wait: `nightmill resume {report['name']}`, then the same command goes on")
    if report["state"] in (BatchState.PAUSED, BatchState.CANCELLED):
        note(report["stopped_because"] or f"the batch was {report['state']} meanwhile")
    if report["rejected"]:
        note(f"`nightmill rejects {report['name']}` tells why rows were rejected")
    if report["counts"]["failed"] or report["counts"]["blocked"]:
        note(f"`nightmill status {report['name']}` tells why jobs failed or were blocked")
