"""`nightmill retract`: take images back that are to be used no more."""

from collections.abc import Iterator
from typing import Annotated

import typer
from sqlalchemy import Engine

from console.command_options import DontAsk, Json
from console.session import Session, session
from console.terminal.confirm import ask
from console.terminal.output import note, plural, print_json
from console.terminal.print_outdated_exports import print_outdated_exports
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.retract_images import ImageRow, chosen_images, count_chosen, images_by_id
from jobs.batches.retract_images import retract as retract_images
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.exports.records import outdated_exports
from jobs.images.find_copies_of_reused_images import copies_of
from jobs.images.where_expression import VERDICTS, Condition, compile_condition
from jobs.outputs.ownership import owner_of

UNASKED = 10
"""Up to so many images are retracted without a question."""

MOST_NAMED = 1000
"""Of copies, so many are named in JSON."""

Chosen = tuple[BatchStatus, Iterator[list[ImageRow]]]


def retract(
    what: Annotated[
        list[str], typer.Argument(metavar="IMAGE...|BATCH", help="image_id, or with --where a batch")
    ],
    reason: Annotated[str, typer.Option(help="why, for whoever reads the feed")],
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="these images of the batch: \"meta.label = 'fox'\""),
    ] = None,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="delete the rows alone")] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="also what was copied from them, or they from, in any batch")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="change nothing, say how many")] = False,
    yes: DontAsk = False,
    as_json: Json = False,
) -> None:
    """Take images back: rows and files go, readers of the feed are told; `retry --retracted` renders them again."""
    if not reason.strip():
        raise UsageError("--reason: say why, for whoever has used the images")
    condition = compile_condition(where, VERDICTS) if where is not None else None
    with session() as open_session:
        total, chosen = _chosen(open_session, what, condition)
        same = _copies(open_session.engine, chosen)
        taken = total + len(same) * copies
        if taken > UNASKED and not (yes or dry_run):
            ask(f"retracts {plural(taken, 'image')} of {', '.join(batch.name for batch, _ in chosen)}")
        rows = files = 0
        all_chosen: list[Chosen] = []
        if not dry_run:
            _, again = _chosen(open_session, what, condition)
            all_chosen = [*again, *_by_ids(open_session, same)] if copies else again
            rows, files = _retract(open_session, all_chosen, taken, reason, keep_files=keep_files)
        batches = [batch.id for batch, _ in all_chosen] if rows else []
        outdated = outdated_exports(open_session.engine, batches)
    told = {
        "batches": [batch.name for batch, _ in chosen],
        "reason": reason,
        "dry_run": dry_run,
        "chosen": taken,
        "retracted": rows,
        "deleted_files": files,
        "copies": len(same),
        "copy_ids": same[:MOST_NAMED],
        "outdated_exports": [export.id for export in outdated],
    }
    if as_json:
        print_json(told)
    if dry_run:
        note(f"{plural(taken, 'image')} would be retracted")
    else:
        note(f"{plural(rows, 'image')} retracted, the files of {files:,} deleted")
    print_outdated_exports(outdated)
    if same and not copies:
        note(f"{plural(len(same), 'copy', 'copies')} of them in other rows stay: --copies takes them, too")


def _chosen(open_session: Session, what: list[str], condition: Condition | None) -> tuple[int, list[Chosen]]:
    engine = open_session.engine
    if condition is not None:
        if len(what) > 1:
            raise UsageError("--where chooses images of one batch: name one")
        batch = actions.status(engine, what[0])
        return count_chosen(engine, batch.id, condition), [
            (batch, chosen_images(engine, batch.id, condition))
        ]
    if wrong := [text for text in what if not text.isdecimal() or len(text) > 18]:
        raise UsageError(f"{wrong[0]} is no image_id: give numbers of images, or a batch with --where")
    ids = list(dict.fromkeys(map(int, what)))
    return len(ids), _by_ids(open_session, ids)


def _by_ids(open_session: Session, ids: list[int]) -> list[Chosen]:
    found = images_by_id(open_session.engine, ids)
    return [
        (actions.status(open_session.engine, str(number)), iter([rows])) for number, rows in found.items()
    ]


def _copies(engine: Engine, chosen: list[Chosen]) -> list[int]:
    """Return the ids of copies of the chosen images that aren't chosen themselves."""
    ids, found = set[int](), set[int]()
    for _, pages in chosen:
        for page in pages:
            of_page = [image.id for image in page]
            ids.update(of_page)
            found.update(copies_of(engine, of_page))
    return sorted(found - ids)


def _retract(
    open_session: Session, chosen: list[Chosen], total: int, reason: str, *, keep_files: bool
) -> tuple[int, int]:
    rows = files = 0
    with counting("retracting", total, "images") as tell:
        for batch, pages in chosen:
            store = None if keep_files else open_session.batch_store(batch)
            if store is not None:
                owner_of(open_session.engine, store, batch.id, batch.folder)
            for page in pages:
                more_rows, more_files = retract_images(open_session.engine, batch, page, reason, store)
                rows, files = rows + more_rows, files + more_files
                tell(rows)
    record_batch_events(open_session.engine)
    return rows, files
