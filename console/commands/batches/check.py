"""`nightmill check`: compare the objects in the output with the image rows."""

import re
from dataclasses import asdict
from typing import Annotated

import typer

from console.command_options import Batch, Json
from console.session import session
from console.terminal.output import note, plural, print_json, print_line
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.check_and_repair_objects import Wrong, image_count, repair, sample_size
from jobs.batches.check_and_repair_objects import check as check_objects
from jobs.errors import UsageError
from jobs.outputs.ownership import owner_of


def check(
    batch: Batch,
    repair_: Annotated[bool, typer.Option("--repair", help="queue again what is missing or damaged")] = False,
    sample: Annotated[
        str, typer.Option(metavar="SHARE", help="read only so many, chosen at random, such as 1%")
    ] = "100%",
    as_json: Json = False,
) -> None:
    """Read every image of a batch and compare it with its row; exit 1 if one is missing or damaged."""
    share = checked_share(sample)
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        store = open_session.batch_store(found)
        owner_of(open_session.engine, store, found.id, found.folder)
        images = image_count(open_session.engine, found.id)
        wanted = sample_size(images, share)
        wrong: list[Wrong] = []
        queued = 0
        with counting("checking", wanted, "images") as tell:
            for page in check_objects(open_session.engine, store, found, share, tell):
                wrong += page
                if repair_ and page:
                    queued += repair(open_session.engine, found, page)
    if as_json:
        print_json(
            {
                "batch": found.name,
                "images": images,
                "checked": wanted,
                "missing": [asdict(each) for each in wrong if each.is_missing],
                "damaged": [asdict(each) for each in wrong if not each.is_missing],
                "queued": queued,
            }
        )
    else:
        for each in wrong:
            print_line(f"{each.key}\t{each.reason}")
    _tell(found.name, wanted, images, wrong, queued)
    if wrong:
        raise typer.Exit(1)


def checked_share(text: str) -> float:
    """Parse a share such as 1% or 0.5%, above 0 and up to 100. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--sample {text}: write a share above 0 % and up to 100 %, such as 1%")
    return share


def _tell(name: str, checked: int, images: int, wrong: list[Wrong], queued: int) -> None:
    missing, blocked = sum(each.is_missing for each in wrong), sum(each.is_blocked for each in wrong)
    note(
        f"{checked:,} of {images:,} images of {name} read: {missing:,} missing, {len(wrong) - missing:,} damaged"
    )
    if queued:
        note(
            f"{plural(queued, 'job')} queued again: the same `nightmill run`, or workers that are up, render them"
        )
    elif len(wrong) > blocked:
        note(f"`nightmill check {name} --repair` queues them again")
    if blocked:
        note(
            f"{blocked:,} can't be stored until what stands in their place is removed: --repair leaves them as they are"
        )
