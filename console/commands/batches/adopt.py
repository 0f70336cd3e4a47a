"""`nightmill adopt`: take over a batch folder that a restored database owned before."""

from typing import Annotated

import typer

from console.command_options import Batch, Json
from console.session import s3_options, session
from console.terminal.confirm import ask
from console.terminal.output import note, print_json
from jobs.batches import actions
from jobs.outputs.mount_marker import mark
from jobs.outputs.ownership import adopt as adopt_folder
from jobs.outputs.ownership import read_owner
from jobs.storage.folder import FolderStore
from jobs.storage.open import open_store


def adopt(
    batch: Batch,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="don't ask")] = False,
    as_json: Json = False,
) -> None:
    """Take over a batch's folder: after a restore of the database, or where the output was emptied on purpose."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        store = open_store(found.output, s3_options(open_session.settings))
        before = read_owner(store, found.folder)
        whose = (
            f"of installation {before.installation}, {before.database}"
            if before
            else "whose owner isn't known"
        )
        what = f"{store.locate(found.folder)}, {whose}"
        if not yes:
            ask(f"takes over {what}")
        owner = adopt_folder(open_session.engine, store, found.id, found.folder)
        if isinstance(store, FolderStore):
            mark(open_session.engine, store)
    if as_json:
        print_json({"batch": found.name, "output": found.output, "installation": str(owner.installation)})
    note(f"{store.locate(found.folder)} belongs to this installation now")
