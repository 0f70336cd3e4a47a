"""`nightmill rename`: give a batch another name."""

from typing import Annotated

import typer

from console.command_options import Batch, Json
from console.session import session
from console.terminal.output import note, print_json
from jobs.batches import actions
from jobs.batches.rename import rename as rename_batch
from scheduler.ingest.submit_request import checked_name


def rename(
    batch: Batch,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the new name")],
    as_json: Json = False,
) -> None:
    """Give an ended batch another name; its files stay in the folder of its first one."""
    checked_name(name, given_as="")
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        if name != found.name:
            rename_batch(open_session.engine, found, name)
    folder = f"{found.output.rstrip('/')}/{found.folder}"
    told = {"batch": found.id, "name": name, "former_name": found.name, "folder": folder}
    if as_json:
        print_json(told)
    else:
        note(f"{found.name} is called {name} now; its files stay in {folder}")
