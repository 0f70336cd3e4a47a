"""`nightmill duplicates`: images that look nearly the same."""

from typing import Annotated

import typer

from console.command_options import Batch, Json
from console.session import session
from console.terminal.output import note, plural, print_json, print_line
from jobs.batches import actions
from jobs.images.near_duplicates import NearDuplicates

_FORMER_ROWS = "of versions without perceptual hashes, or withheld"


def duplicates(
    batch: Batch,
    distance: Annotated[
        int, typer.Option(min=0, max=10, help="of 64 bits of their hashes, so many may differ")
    ] = 4,
    across: Annotated[
        list[str] | None, typer.Option(metavar="BATCH", help="compare with this batch, too")
    ] = None,
    as_json: Json = False,
) -> None:
    """Groups of images that look nearly the same, by perceptual hash; the first of each came first."""
    with session() as open_session:
        found = [actions.status(open_session.engine, name) for name in (batch, *(across or ()))]
        near = NearDuplicates(open_session.engine, sorted({each.id for each in found}), distance)
        if as_json:
            print_json(
                {
                    "batches": [each.name for each in found],
                    "distance": distance,
                    "images": near.images,
                    "without_hash": near.without_hash,
                    "duplicates": near.duplicates,
                    "groups": list(near.groups()),
                }
            )
            return
        groups = 0
        for group in near.groups():
            for member in group:
                print_line(f"{member['distance']}\t{member['batch']}\t{member['uri']}")
            print_line("")
            groups += 1
    note(
        f"{plural(near.images, 'image')} compared: {plural(near.duplicates, 'duplicate')} in {plural(groups, 'group')}"
        + (f"; {near.without_hash:,} have no hash ({_FORMER_ROWS})" if near.without_hash else "")
    )
