"""`nightmill move`: move a batch's images to another output."""

from typing import Annotated

import typer

from console.command_options import Batch, DontAsk, Json
from console.export_with_progress import exports_beside_images, update_beside_images
from console.manifests.submit_request_from_options import output_of
from console.session import Session, s3_options, session
from console.terminal.confirm import ask
from console.terminal.output import note, plural, print_json
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.batches.check_and_repair_objects import image_count
from jobs.batches.move_images_to_another_output import check_can_move, delete_moved, moved_from
from jobs.batches.move_images_to_another_output import move as move_files
from jobs.errors import UsageError
from jobs.outputs.mount_marker import find_output
from jobs.outputs.ownership import batch_folder_around, open_claimed
from scheduler.export.tables.drop_tables import drop_tables_beside_images


def move(
    batch: Batch,
    to: Annotated[str, typer.Argument(metavar="URI", help="folder or s3://bucket/prefix, as of --out")],
    yes: DontAsk = False,
    as_json: Json = False,
) -> None:
    """Copy an ended batch's images to another output, compare them, and delete them here; rows say the new place."""
    output = output_of(to)
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        images = image_count(open_session.engine, found.id)
        if found.output.rstrip("/") != output.rstrip("/"):
            if not yes:
                ask(f"moves {plural(images, 'image')} of {found.name} from {found.output} to {output}")
            _copy(open_session, found, output, images)
            found = actions.status(open_session.engine, batch)
        _delete_old(open_session, found)
        exports = list(
            update_beside_images(open_session, found, list(exports_beside_images(open_session, found)))
        )
    if as_json:
        print_json({"batch": found.name, "output": found.output, "images": images, "exports": exports})
    else:
        note(f"{plural(images, 'image')} of {found.name} lie in {found.output}/{found.folder}")


def _copy(open_session: Session, found: BatchStatus, output: str, images: int) -> None:
    options = s3_options(open_session.settings)
    check_can_move(found)
    if (around := batch_folder_around(output, options)) is not None:
        raise UsageError(f"{output} lies in {around}, the folder of a batch: name a folder outside")
    source = open_session.batch_store(found)
    target = open_claimed(open_session.engine, output, options, found.id, found.folder)
    with counting("copying", images, "images") as tell:
        move_files(open_session.engine, found, source, target, output, tell)


def _delete_old(open_session: Session, found: BatchStatus) -> None:
    """Delete the files at the place that the batch was moved from, now or by a call that was cut off."""
    if (old := moved_from(open_session.engine, found)) is None:
        return
    source = find_output(open_session.engine, old, s3_options(open_session.settings))
    drop_tables_beside_images(open_session.engine, open_session.claimed_store(found), found)
    delete_moved(open_session.engine, found, source)
    if stayed := list(source.names(found.folder)):
        note(f"{plural(len(stayed), 'file')} not written by nightmill left in {old}/{found.folder}")
