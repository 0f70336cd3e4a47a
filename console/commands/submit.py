"""`nightmill submit`: ingest a manifest as a batch that others render."""

import typer

from console.command_options import Json
from console.command_options_from_dataclass import takes
from console.manifests.ingest_manifest import ingest_manifest, intake_counts
from console.session import session
from console.submit_options import SubmitOptions
from console.terminal.output import note, print_json
from jobs.batches import actions


@takes(SubmitOptions)
def submit(options: SubmitOptions, as_json: Json = False) -> None:
    """Ingest a manifest only; workers elsewhere, or a later `run`, render it."""
    if options.format:
        from console.export_with_progress import check_formats, open_live_exports  # noqa: PLC0415 - imports pyarrow

        check_formats(options.format)
    with session() as open_session:
        ingested = ingest_manifest(open_session, options)
        status = actions.status(open_session.engine, ingested.name)
        if options.format:
            open_live_exports(open_session, status, options.format)
    if as_json:
        print_json(status.report() | {"is_new": ingested.is_new} | intake_counts(ingested))
    else:
        note(f"`nightmill status {ingested.name}` tells where it stands")
    if not ingested.jobs:
        raise typer.Exit(1)
