"""`nightmill reproduce`: render an image again from its row, and say whether it is the same."""

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import text

from console.command_options import Json, Out
from console.commands.images.show import Image, Keys
from console.manifests.ingest_manifest import ingest_manifest
from console.process_control.run_batch_to_completion import work_at
from console.provenance_lookup.resolve_image_argument import chosen_image, require_installation
from console.provenance_lookup.watermark_keys import keys_to_try
from console.reproduction.row_as_manifest import manifest_row, set_options
from console.reproduction.was_upscaled_to_requested_size import was_upscaled_to_requested_size
from console.session import Session, session
from console.submit_options import SubmitOptions
from console.terminal.output import note, print_json, print_line
from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.batches.drop_jobs_and_delete_batches import delete
from jobs.batches.status import open_jobs
from jobs.db.engine import run
from jobs.errors import NightmillError, UsageError
from jobs.images.find_rows_by_mark_or_digest import image_record
from jobs.input_image_access import PictureRefusedError
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import policy_of
from jobs.settings import load_settings
from models.optional_packages import require
from scheduler.ingest.ingest import RejectedRowError

_BATCH = text("SELECT batches.* FROM batches JOIN images ON batch_id = batches.id WHERE images.id = :id")
_IMAGE = text("SELECT id FROM images WHERE batch_id = :batch")
_END = text("SELECT state, error_kind, error_text FROM jobs WHERE batch_id = :batch")


def reproduce(
    image: Image,
    keys: Keys = None,
    out: Out = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep the batch and the picture that are made for it")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="worker processes to start; default: 1, or those that are up")
    ] = None,
    as_json: Json = False,
) -> None:
    """Render an image again and compare: exit code 0 the same pixels, 1 they differ, 2 it can't be rendered."""
    require("worker", instead="pictures are compared where workers are installed")
    settings = load_settings()
    require_installation(settings)
    with session(settings) as open_session:
        record = chosen_image(open_session, image, keys)
        try:
            told = _reproduced(open_session, record, keys_to_try(settings, keys), out, workers, keeps=keep)
        except (NightmillError, PictureRefusedError) as error:
            raise UsageError(f"it can't be rendered again: {error}") from error
    if as_json:
        print_json(told)
    else:
        print_line(_said(told))
    raise typer.Exit(0 if told["same_pixels"] else 1)


def _reproduced(
    open_session: Session,
    record: Mapping[str, Any],
    keys: Mapping[int, bytes],
    out: str | None,
    workers: int | None,
    *,
    keeps: bool,
) -> dict[str, Any]:
    original = _file_of(open_session, record)
    batch = _submitted(open_session, record, out)
    try:
        _render(open_session, batch, workers)
        return _compared(open_session, record, original, batch, keys)
    finally:
        if keeps:
            note(f"the picture is in batch {batch.name}, in {batch.output}/{batch.folder}")
        else:
            actions.cancel(open_session.engine, batch.id)
            _delete(open_session, actions.status(open_session.engine, batch.name))


def _file_of(open_session: Session, record: Mapping[str, Any]) -> bytes:
    return open_session.batch_store(actions.status(open_session.engine, record["batch"])).get(record["key"])


def _delete(open_session: Session, batch: BatchStatus) -> None:
    store = None
    with suppress(NightmillError):  # an output that is away has no file of it
        store = open_session.batch_store(batch)
    delete(open_session.engine, batch, store)


def _submitted(open_session: Session, record: Mapping[str, Any], out: str | None) -> BatchStatus:
    """Ingest a batch of the one row. Raises UsageError if it can't be asked for any more."""
    policy, unknown = _policy_of(open_session, record)
    if unknown:
        raise UsageError(f"its batch has policies of a later version: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        manifest = Path(temporary) / "row.jsonl"
        has_size = was_upscaled_to_requested_size(open_session.engine, record["image_id"])
        row = manifest_row(record, has_size=has_size)
        manifest.write_text(json.dumps(row) + "\n", encoding="utf-8")
        name = f"reproduce-{record['image_id']}-{secrets.token_hex(3)}"
        options = SubmitOptions(
            manifest=str(manifest), out=out, name=name, set_=set_options(policy), strict=True
        )
        try:
            ingested = ingest_manifest(open_session, options)
        except RejectedRowError as error:
            column = f"{error.reject.column} of its row: " if error.reject.column else ""
            raise UsageError(column + error.reject.reason) from None
        except NightmillError as error:
            raise UsageError(_of_its_row(str(error), str(manifest))) from None
    return actions.status(open_session.engine, ingested.name)


def _of_its_row(message: str, manifest: str) -> str:
    """Return a message without the name of the temporary file with the row."""
    return message.replace(f"{manifest}, line 1", "its row").replace(manifest, "its row")


def _policy_of(open_session: Session, record: Mapping[str, Any]) -> tuple[BatchPolicy, Sequence[str]]:
    (batch,) = run(open_session.engine, _BATCH, {"id": record["image_id"]})
    return policy_of(batch._mapping)


def _render(open_session: Session, batch: BatchStatus, workers: int | None) -> None:
    figures = work_at(open_session, batch, workers)
    if open_jobs(actions.status(open_session.engine, batch.name).counts):
        raise UsageError(f"no worker renders it: {figures['waiting']}")


def _compared(
    open_session: Session,
    record: Mapping[str, Any],
    original: bytes,
    batch: BatchStatus,
    keys: Mapping[int, bytes],
) -> dict[str, Any]:
    from console.reproduction.compare_pictures import (  # noqa: PLC0415 - needs the worker's packages
        compare,
        compressed_as,
        made_otherwise,
        marked_as,
        pixels_of,
    )

    rows = run(open_session.engine, _IMAGE, {"batch": batch.id})
    if not rows:
        (end,) = run(open_session.engine, _END, {"batch": batch.id})
        raise UsageError(f"its job was {end.state}, {end.error_kind}: {end.error_text}")
    again = image_record(open_session.engine, rows[0].id)
    assert again is not None
    policy, _ = _policy_of(open_session, record)
    there = pixels_of(original, record["uri"])
    new = pixels_of(open_session.batch_store(batch).get(again["key"]), again["uri"])
    expected = compressed_as(marked_as(new, record, keys), record["format"], policy.quality)
    return {
        "image": record["image_id"],
        **compare(there, expected),
        "made_otherwise": made_otherwise(record, again),
    }


def _said(told: Mapping[str, Any]) -> str:
    if told["same_pixels"]:
        return "same pixels"
    others = ", ".join(f"{name} {old} now {new}" for name, (old, new) in told["made_otherwise"].items())
    what = f"differs by at most {told['most_levels']} grey levels in {told['share']:.2%} of the pixels"
    if told["most_levels"] is None:
        what = f"differs in size: {' and '.join(told['sizes'])}"
    return f"{what}: {others or 'all that is known of how they were made is the same'}"
