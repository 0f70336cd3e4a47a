"""`nightmill submit`: ingest a manifest as a batch that others render."""

import typer

from console.command_options import (
    Canary,
    Deadline,
    Delimiter,
    Drop,
    Format,
    Json,
    Manifest,
    Map,
    Model,
    Name,
    NotBefore,
    Out,
    Priority,
    Set,
    Strict,
    UniqueIds,
    Window,
    Yes,
)
from console.commands.run import intake, take_in
from console.order_from_options import SubmitOptions
from console.session import session
from console.terminal.output import note, print_json
from jobs.batches import actions


def submit(
    manifest: Manifest,
    out: Out = None,
    model: Model = None,
    name: Name = None,
    set_: Set = None,
    map_: Map = None,
    strict: Strict = False,
    input_format: Format = None,
    delimiter: Delimiter = None,
    drop: Drop = None,
    unique_ids: UniqueIds = False,
    priority: Priority = None,
    window: Window = None,
    not_before: NotBefore = None,
    deadline: Deadline = None,
    canary: Canary = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Ingest a manifest only; workers elsewhere, or a later `run`, render it."""
    schedule = {
        "priority": priority,
        "window": window,
        "not_before": not_before,
        "deadline": deadline,
        "canary": canary,
    }
    options = SubmitOptions(
        manifest,
        out,
        model,
        name,
        set_ or (),
        map_ or (),
        strict,
        input_format,
        schedule,
        delimiter,
        drop or (),
        unique_ids,
    )
    with session() as open_session:
        ingested = take_in(open_session, options, yes)
        status = actions.status(open_session.engine, ingested.name)
    if as_json:
        print_json(status.report() | {"is_new": ingested.is_new} | intake(ingested))
    else:
        note(f"`nightmill status {ingested.name}` tells where it stands")
    if not ingested.jobs:
        raise typer.Exit(1)
