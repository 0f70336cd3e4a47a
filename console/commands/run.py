"""`nightmill run`: the main command, from a manifest to a finished image set."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

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
from console.process_control.run_batch_to_completion import starts_workers, work_at
from console.run_statistics import truncated
from console.session import Session, session
from console.signing_identity.describe_identity import require_usable_identity
from console.submit_options import SubmitOptions
from console.terminal.output import note
from console.terminal.print_run_result import tell
from console.terminal.progress import summary
from console.terminal.schedule_text import pause_reasons
from jobs.batches import actions
from jobs.batches.accepted_image_quotas import shortfall
from jobs.batches.actions import BatchStatus, why_archived
from jobs.batches.manifest_reconciliation import sums
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.status import open_jobs
from jobs.errors import UsageError
from jobs.settings import load_settings
from jobs.states import BatchState
from jobs.storage.key_layout import DEFAULT_FORMAT
from models.optional_packages import require
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.ingest.ingest import Ingested


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
    if starts_workers(settings, workers):
        require("worker", instead="with --workers 0, workers elsewhere render it")
        require_usable_identity(settings)
    check_formats(options.format)
    TimeStampAuthority.of_settings(settings)  # raises if it can't be used, before anything is rendered
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
        figures = work_at(open_session, status, workers)
        status = open_session.patiently(lambda: actions.status(open_session.engine, ingested.name))
    else:
        note(f"nothing to render: {summary(status)}; {_how_to_render(status)}")
    lacking = open_session.patiently(lambda: shortfall(open_session.engine, status.id))
    figures["short"] = lacking and lacking.report()
    return status.report() | figures | open_session.patiently(lambda: _results(open_session, status, formats))


def _how_to_render(status: BatchStatus) -> str:
    """Return what renders something of a manifest whose batch has ended."""
    if status.archived_at is not None:
        return why_archived(status.name)
    another = "another --name makes a batch of its own, with `--reuse off` rendered anew"
    if status.counts["failed"] or status.counts["blocked"]:
        return f"`nightmill retry {status.name}` queues what failed or was blocked; {another}"
    return another


def _refuse_stopped(status: BatchStatus) -> None:
    if status.state == BatchState.PAUSED:
        reasons = pause_reasons(status)
        why = f" ({reasons})" if reasons else ""
        raise UsageError(f"batch {status.name} is paused{why}: `nightmill resume {status.name}` first")
    if status.state == BatchState.CANCELLED and status.archived_at is not None:
        raise UsageError(f"{why_archived(status.name)}; it was cancelled")
    if status.state == BatchState.CANCELLED:
        raise UsageError(
            f"batch {status.name} was cancelled: `nightmill retry {status.name}` brings its jobs back"
        )


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
