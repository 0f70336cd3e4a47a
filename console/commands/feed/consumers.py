"""`nightmill consumers`: who reads the feed, how far each is behind, and what holds the feed back."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from console.command_options import Json
from console.session import session
from console.terminal.output import duration, note, plural, print_json, print_table
from jobs.errors import UsageError
from jobs.feed import consumers as keeping
from jobs.feed.consumer_lag import consumers as list_consumers
from jobs.feed.consumer_lag import holder
from jobs.feed.feed import parse_cursor

_COLUMNS = ("name", "behind", "for", "reads", "batch", "acknowledged", "cursor")


def consumers(
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="forget this consumer")] = None,
    reset: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="NAME CURSOR", help="let this consumer go on from there; 0-0: the start"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Who reads the feed with --consumer, how far each is behind, and what holds the feed back."""
    if remove is not None and reset is not None:
        raise UsageError("--remove or --reset, not both")
    with session() as open_session:
        if remove is not None:
            keeping.remove(open_session.engine, remove)
        if reset is not None:
            keeping.reset(open_session.engine, reset[0], parse_cursor(reset[1]))
        found, held_by = list_consumers(open_session.engine), holder(open_session.engine)
    if as_json:
        print_json({"consumers": found, "held_back_by": held_by})
        return
    print_table(_COLUMNS, (_cells(consumer) for consumer in found))
    held_back = max((consumer["held_back"] for consumer in found), default=0)
    if held_by is not None and held_back:
        note(f"{plural(held_back, 'row')} wait for the {_described(held_by)}")


def _cells(consumer: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        consumer["name"],
        f"{consumer['rows']:,}",
        duration(consumer["seconds"]) if consumer["rows"] else "",
        ",".join(consumer["kinds"]),
        consumer["batch"] or "",
        consumer["acknowledged_at"] or "",
        consumer["cursor"],
    )


def _described(held_by: Mapping[str, Any]) -> str:
    if held_by["name"] is not None:
        return (
            f"prepared transaction {held_by['name']} of {held_by['user']} in {held_by['database']}, since "
            f"{held_by['since']}: COMMIT PREPARED or ROLLBACK PREPARED it"
        )
    who = f"{held_by['user'] or 'another user'}, {held_by['application'] or 'unnamed'}"
    return (
        f"transaction of process {held_by['pid']} of PostgreSQL ({who}, from {held_by['host'] or 'its own host'}, "
        f"{held_by['state'] or 'unknown'}) in {held_by['database']}, since {held_by['since'] or 'an unknown time'}"
    )
