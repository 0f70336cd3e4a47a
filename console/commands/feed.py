"""`nightmill feed`: finished images as JSON lines, each exactly once."""

import time
from typing import Annotated

import typer

from console.session import session
from console.terminal.output import print_line
from console.terminal.streams import is_unread
from jobs.batches import actions
from jobs.images import feed as feeding

FOLLOW_S = 1


def feed(
    since: Annotated[
        str, typer.Option(metavar="CURSOR", help="the last cursor that you have dealt with")
    ] = feeding.START,
    batch: Annotated[str | None, typer.Option(help="only this batch")] = None,
    follow: Annotated[bool, typer.Option(help="wait for more")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, as always")] = True,  # noqa: ARG001
) -> None:
    """Finished images as JSON lines, each exactly once; go on later from the last line's cursor."""
    from scheduler.export.formats.jsonl import to_json  # noqa: PLC0415 - imports pyarrow, which other commands don't need

    with session() as open_session:
        found = actions.status(open_session.engine, batch).id if batch else None

        def read_on() -> None:
            nonlocal since
            for row in feeding.read(open_session.engine, since, batch=found):
                since = row["cursor"]
                print_line(to_json(row))
                if is_unread():
                    raise typer.Exit

        while follow:
            open_session.patiently(read_on)
            time.sleep(FOLLOW_S)
        read_on()
