"""Ingest the manifest of `run` and `submit`, with a progress counter, and tell what became of its lines."""

import sys
from typing import Any

import typer

from console.batch_folder_claim import BatchFolder
from console.manifests.submit_request_from_options import submit_request
from console.manifests.update_existing_batch import bring_onto, check_options, tell_changes
from console.session import Session
from console.submit_options import SubmitOptions
from console.terminal.output import line_sum, note, plural, seeds_said
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.db.engine import database_time
from jobs.errors import UsageError
from scheduler.ingest.ingest import Ingested, ManyJobsError, ingest

MAX_JOBS = 1_000_000


def ingest_manifest(open_session: Session, options: SubmitOptions) -> Ingested:
    """Ingest the manifest, with a progress counter, and report the result.

    Above MAX_JOBS jobs it asks for confirmation, unless the options say yes. What was stored until then is rolled back
    first, and the manifest is read again after a yes: no transaction, which holds the feed back, waits for a person.
    """
    check_options(options)
    take = _update if options.onto is not None else _ingest
    try:
        return take(open_session, options, None if options.yes else MAX_JOBS)
    except ManyJobsError as many:
        if not sys.stdin.isatty() or options.manifest == "-":
            raise UsageError(f"{many}; if that is meant, say --yes") from None
        typer.confirm(f"{many}. Go on?", abort=True, err=True)
        return take(open_session, options, None)


def _update(open_session: Session, options: SubmitOptions, max_jobs: int | None) -> Ingested:
    base, applied = bring_onto(open_session, options, max_jobs=max_jobs)
    tell_changes(base, applied)
    found = actions.status(open_session.engine, base.name)
    return Ingested(
        base.id,
        base.name,
        False,
        found.rows,
        found.rejected,
        sum(found.counts.values()),
        base.policy.batch_seed,
        base.policy.seed_from,
        difference=applied.difference,
    )


def _ingest(open_session: Session, options: SubmitOptions, max_jobs: int | None) -> Ingested:
    with (
        submit_request(options, open_session.settings) as (request, rules),
        counting("ingesting", request.manifest.rows) as tell,
    ):

        def attempt() -> Ingested:
            folder = BatchFolder(open_session, request.output)
            try:
                return ingest(open_session.engine, request, rules, tell, max_jobs, folder.claim)
            except BaseException:
                folder.give_back()
                raise

        ingested = open_session.patiently(attempt)  # in one transaction, from the first row
    if ingested.is_new:
        _tell_counts(ingested)
        note(
            f"batch {ingested.name}: {plural(ingested.rows, 'row')} gave {plural(ingested.jobs, 'job')}, "
            f"{ingested.rejected:,} rejected"
        )
        note(f"seeds: {seeds_said(ingested.seed_from, ingested.batch_seed)}")
        due = request.policy.deadline
        if due is not None and due < database_time(open_session.engine):
            note("its deadline has passed already")
    else:
        note(f"batch {ingested.name}: this manifest with these settings is known, nothing is ingested twice")
        if given := list(options.policy_keys):
            note(
                f"options such as --{given[0].replace('_', '-')} change no batch that is there: "
                f"`nightmill change {ingested.name}` changes priority, window, --not-before and --deadline"
            )
    return ingested


def intake_counts(ingested: Ingested) -> dict[str, Any]:
    """Return the counts of the manifest's lines and repeated ids, for JSON; null if the batch already existed."""
    lines = ingested.lines and ingested.lines.report(ingested.rows - ingested.rejected, ingested.rejected)
    changes = {"onto": ingested.difference.report()} if ingested.difference else {}
    return {"lines": lines, "repeated_ids": ingested.repeated_ids if ingested.is_new else None} | changes


def _tell_counts(ingested: Ingested) -> None:
    if ingested.lines is not None:
        note(f"lines: {line_sum(intake_counts(ingested)['lines'])}")
        if left_out := ingested.lines.left_out:
            note(f"columns of bytes are left out: {', '.join(left_out)}")
        if not_found := ingested.lines.not_found:
            note(f"--drop: no row has a column {', '.join(not_found)}")
    if ingested.repeated_ids:
        note(
            f"{ingested.repeated_ids:,} rows repeat the id of an earlier one; --unique-ids refuses such manifests"
        )
