"""`nightmill tag`: label batches."""

from typing import Annotated

import typer

from console.command_options import Batch, Json
from console.session import session
from console.terminal.output import note, print_json
from jobs.batches import actions
from jobs.batches.tags import change_tags


def tag(
    batch: Batch,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG...", help="to add, such as split=train")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="take it back; repeat it for several")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add tags to a batch, by which `status --tag` finds it; without any, show those that it has."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        now = change_tags(open_session.engine, found.id, tags or (), remove or ())
    if as_json:
        print_json({"batch": found.name, "tags": now})
    else:
        note(f"{found.name}: {', '.join(now) or 'no tags'}")
