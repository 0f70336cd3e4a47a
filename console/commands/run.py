"""`nightmill run`: the main command, from a manifest to a finished image set."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer

from console.broker_problems_while_waiting import BrokerCheck
from console.command_options import Json
from console.command_options_from_dataclass import takes
from console.contact_sheet_of_batch import write_contact_sheet
from console.export_with_progress import (
    check_formats,
    exports_beside_images,
    open_live_exports,
    update_beside_images,
)
from console.manifests.ingest_manifest import ingest_manifest, intake_counts
from console.process_control import background_up
from console.process_control.stop_by_signal import Stopped
from console.process_control.supervisor import ProcessGroup, group
from console.run_statistics import effort, truncated
from console.session import Session, session
from console.several_batches.watch_until_still import current_status
from console.submit_options import SubmitOptions
from console.terminal.output import note
from console.terminal.print_run_result import tell
from console.terminal.progress import summary, watching
from console.terminal.schedule_text import pause_reasons
from jobs.batches import actions
from jobs.batches.accepted_image_quotas import shortfall
from jobs.batches.actions import BatchStatus
from jobs.batches.manifest_reconciliation import sums
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.status import open_jobs
from jobs.db.engine import database_time
from jobs.errors import UsageError
from jobs.settings import Settings, load_settings
from jobs.states import BatchState
from jobs.storage.key_layout import DEFAULT_FORMAT
from jobs.storage.open import check_writable
from models.optional_packages import require
from scheduler.ingest.ingest import Ingested

POLL_S = 0.25

NO_WORKER_UP = (
    "no worker is up any more; `nightmill up --workers 1` starts one, and so does the same `run` again"
)


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
    check_formats(options.format)
    with session(settings) as open_session:
        ingested = ingest_manifest(open_session, options)
        report = _render(open_session, ingested, workers, options.format or ())
    report["seconds"] = round(time.monotonic() - started, 1)
    report |= intake_counts(ingested)
    tell(report, as_json)
    counts = report["counts"]
    is_short = report["short"] is not None and report["short"]["images"] > 0
    is_unfinished = open_jobs(counts) or not counts["done"] + counts["blocked"]
    if counts["failed"] or is_unfinished or is_short or report["reconciliation"]["problems"]:
        raise typer.Exit(1)


def _render(
    open_session: Session, ingested: Ingested, workers: int | None, formats: Sequence[str]
) -> dict[str, Any]:
    status = actions.status(open_session.engine, ingested.name)
    open_live_exports(open_session, status, formats)
    _refuse_stopped(status)
    figures: dict[str, Any] = {"rendered": 0, "reused": 0}
    if status.remaining:
        figures = _work(open_session, status, workers)
        status = open_session.patiently(lambda: actions.status(open_session.engine, ingested.name))
    else:
        again = "another --name makes a batch of its own, with `--reuse off` rendered anew"
        if status.counts["failed"] or status.counts["blocked"]:
            again = f"`nightmill retry {status.name}` queues what failed or was blocked; {again}"
        note(f"nothing to render: {summary(status)}; {again}")
    lacking = open_session.patiently(lambda: shortfall(open_session.engine, status.id))
    figures["short"] = lacking and lacking.report()
    return status.report() | figures | open_session.patiently(lambda: _results(open_session, status, formats))


def _starts_workers(settings: Settings, workers: int | None) -> bool:
    return bool(workers) if workers is not None else not _has_up_workers(settings)


def _has_up_workers(settings: Settings) -> bool:
    """Whether an `up` runs that keeps workers; one of an earlier version doesn't say, and has some as a rule."""
    told = background_up.report(settings)
    return told is not None and told.workers != 0


def _default_workers(open_session: Session) -> int:
    if not _has_up_workers(open_session.settings):
        if background_up.running(open_session.settings) is not None:
            note("what is up has no workers: this run starts one of its own")
        return 1
    note("the workers that are up do the work")
    for name, (theirs, own) in background_up.other_settings(open_session.settings).items():
        note(
            f"NIGHTMILL_{name.upper()} is {theirs} for the workers that are up; {own}, as here, has no effect"
        )
    return 0


def _refuse_stopped(status: BatchStatus) -> None:
    if status.state == BatchState.PAUSED:
        reasons = pause_reasons(status)
        why = f" ({reasons})" if reasons else ""
        raise UsageError(f"batch {status.name} is paused{why}: `nightmill resume {status.name}` first")
    if status.state == BatchState.CANCELLED:
        raise UsageError(
            f"batch {status.name} was cancelled: `nightmill retry {status.name}` brings its jobs back"
        )


def _work(open_session: Session, status: BatchStatus, asked: int | None) -> dict[str, Any]:
    workers = _default_workers(open_session) if asked is None else asked
    since = database_time(open_session.engine)
    _check_services(open_session, status)
    with group(open_session.settings, workers) as members:
        try:
            waited_for = _wait(open_session, status, members, needs_up=asked is None and workers == 0)
        except Stopped:
            note(
                "stopping: what isn't finished goes back to the queue, and the same command goes on from there"
            )
            raise
        memory = members.memory.report()
    made = open_session.patiently(lambda: effort(open_session.engine, status.id, since))
    seconds = max(made.seconds, 1e-3)
    return {
        "rendered": made.images - made.reused,
        "reused": made.reused,
        "rendering_s": round(seconds, 1),
        "rendered_per_s": round((made.images - made.reused) / seconds, 3),
        "drawing_share": round(made.drawing_share, 3),
        "peak_memory": memory,
        "waiting": waited_for,
    }


def _check_services(open_session: Session, status: BatchStatus) -> None:
    """Check the store and Redis, and report what would otherwise make workers wait silently or jobs fail."""
    from scheduler.check_redis import check_redis  # noqa: PLC0415 - its libraries take time to import

    check_writable(open_session.claimed_store(status))
    broker = check_redis(open_session.settings)
    if broker.startswith("built-in"):
        note(f"no valkey-server or redis-server found: using the {broker}")


def _wait(open_session: Session, status: BatchStatus, members: ProcessGroup, *, needs_up: bool) -> str | None:
    """Wait until the batch has ended; return the reason if waiting was given up since no worker can continue.

    With `needs_up`, the run has no workers of its own and relies on those that are up.
    """
    going_at = time.monotonic()
    broker = BrokerCheck(open_session.settings)
    with watching(sum(status.counts.values())) as watch:
        while status.remaining and status.state not in (BatchState.PAUSED, BatchState.CANCELLED):
            time.sleep(POLL_S)
            members.keep_alive()
            status = open_session.patiently(partial(current_status, open_session.engine, status))
            told = background_up.report(open_session.settings)
            members.memory.look(told.worker_pids if told else ())
            is_idle = status.waiting is None and not status.counts["running"]
            if needs_up and is_idle and not _has_up_workers(open_session.settings):
                status = status._replace(waiting=NO_WORKER_UP)
            watch.show(status)
            broker.look(status)
            if status.waiting is None:
                going_at = time.monotonic()
            elif time.monotonic() > going_at + open_session.settings.give_up_s:
                return status.waiting
    return None


def _results(open_session: Session, status: BatchStatus, formats: Sequence[str]) -> dict[str, Any]:
    record_batch_events(open_session.engine)
    store = open_session.claimed_store(status)
    there = exports_beside_images(open_session, status)
    live = [name for name, export in there.items() if export.is_live]
    places = update_beside_images(open_session, status, [*(formats or (DEFAULT_FORMAT,)), *live])
    return {
        "images": store.locate(f"{status.folder}/images"),
        "export": next(iter(places.values())),
        "exports": places,
        "contact_sheet": write_contact_sheet(open_session.engine, store, status),
        "truncated": truncated(open_session.engine, status.id),
        "reconciliation": sums(open_session.engine, status.id).report(),
    }
