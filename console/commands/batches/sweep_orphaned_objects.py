"""`nightmill sweep`: delete orphaned objects, which no image row names."""

import re
from datetime import timedelta
from typing import Annotated

import typer

from console.command_options import Json
from console.session import Session, session
from console.terminal.output import note, print_json, print_line, size
from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.errors import NightmillError, UsageError
from jobs.storage.base import StoredObject
from scheduler.orphaned_objects import sweep_batch

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def sweep(
    batch: Annotated[str | None, typer.Argument(help="name or number; none: all batches")] = None,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="leave what is younger: seconds, or as 90m, 2h, 1d")
    ] = "1h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="delete nothing, say what would go")] = False,
    as_json: Json = False,
) -> None:
    """Delete uploaded images that no row names: of workers that died or lost their job. `scheduler` does it hourly."""
    with session() as open_session:
        age = checked_age(older_than, open_session.settings.lease_s)
        chosen = (
            actions.statuses(open_session.engine)
            if batch is None
            else [actions.status(open_session.engine, batch)]
        )
        swept, troubles = _sweep_all(open_session, chosen, age, dry_run)
    if as_json:
        print_json(_report(chosen, swept, dry_run) | {"troubles": troubles})
    else:
        for found, item in swept:
            print_line(f"{found.output.rstrip('/')}/{item.key}\t{item.bytes} bytes")
        verb = "would go" if dry_run else "went"
        note(f"{len(swept):,} unreferenced objects ({size(_bytes(swept))}) {verb}")
    for name, trouble in troubles.items():
        note(f"{name} isn't swept: {trouble}")
    if troubles:
        raise typer.Exit(1)


def checked_age(text: str, lease_s: float) -> timedelta:
    """Parse an age such as 3600, 90m, 2h or 1d. Raises UsageError, also if it is less than the lease of `lease_s`."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None:
        raise UsageError(f"--older-than {text}: write seconds, or a number with s, m, h or d, such as 90m")
    age = timedelta(seconds=int(match[1]) * UNITS[match[2]])
    if age < timedelta(seconds=lease_s):
        raise UsageError(f"--older-than {text}: must be at least a lease, {lease_s:g} s")
    return age


def _sweep_all(
    open_session: Session, chosen: list[BatchStatus], age: timedelta, dry_run: bool
) -> tuple[list[tuple[BatchStatus, StoredObject]], dict[str, str]]:
    """Return the deleted objects, and the errors by batch; an error doesn't stop the sweep of the other batches."""
    swept, troubles = list[tuple[BatchStatus, StoredObject]](), dict[str, str]()
    for found in chosen:
        try:
            store = open_session.batch_store(found)
            pages = sweep_batch(open_session.engine, store, found.id, older_than=age, dry_run=dry_run)
            swept += [(found, item) for page in pages for item in page]
        except NightmillError as error:
            troubles[found.name] = str(error)
    return swept, troubles


def _report(
    chosen: list[BatchStatus], swept: list[tuple[BatchStatus, StoredObject]], dry_run: bool
) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "batches": [found.name for found in chosen],
        "bytes": _bytes(swept),
        "objects": [
            {"batch": found.name, "key": item.key, "bytes": item.bytes, "modified": item.modified.isoformat()}
            for found, item in swept
        ],
    }


def _bytes(swept: list[tuple[BatchStatus, StoredObject]]) -> int:
    return sum(item.bytes for _, item in swept)
