"""`nightmill pause` and `nightmill resume`: batches by name, of a tenant, or all."""

import getpass
import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from console.command_options import Json
from console.command_options_from_dataclass import takes
from console.session import Session
from console.several_batches.batch_selection_options import MOST_NAMED, BatchSelection
from console.several_batches.change_each_batch import BatchCommand, change_batches, has_open_jobs, told_state
from console.terminal.output import note, plural
from jobs.batches.actions import why_archived
from jobs.batches.status import BatchStatus, statuses
from jobs.queue import pauses
from jobs.states import BatchState
from jobs.suggest_names_and_shorten_lists import some_of


@takes(BatchSelection)
def pause(
    selection: BatchSelection,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="why; `status` shows it")] = None,
    as_json: Json = False,
) -> None:
    """Stop claiming jobs of batches; workers finish the device batch that they are at."""
    by = _group(selection) or pauses.BY_NAME

    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        pauses.pause(open_session.engine, found.id, by, who=_who(), reason=reason)
        return told_state(open_session, found, as_json)

    def can(found: BatchStatus) -> bool:
        return has_open_jobs(found) and found.state != BatchState.CANCELLED

    def why_not(found: BatchStatus) -> str | None:
        if found.state != BatchState.CANCELLED:
            return None
        return pauses.IS_CANCELLED if found.archived_at is None else why_archived(found.name)

    command = BatchCommand(done="paused", change=apply, can=can, why_not=why_not)
    change_batches(selection, command, as_json=as_json)


@takes(BatchSelection)
def resume(selection: BatchSelection, as_json: Json = False) -> None:
    """Go on with paused batches; --all, or a tenant alone, ends only what such a pause had paused."""
    group = _group(selection)

    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        if group is None:
            pauses.resume(open_session.engine, found.id)
        else:
            pauses.end_pause(open_session.engine, found.id, group)
        return told_state(open_session, found, as_json)

    def can(found: BatchStatus) -> bool:
        is_paused = found.state == BatchState.PAUSED and not found.is_stopped_by_canary
        return is_paused and (group is None or [each["by"] for each in found.standing_pauses] == [group])

    def finish(open_session: Session, chosen: Sequence[BatchStatus]) -> None:
        _end_beside_others(open_session, selection, group, chosen)

    command = BatchCommand(
        done="resumed", change=apply, can=can, finish=(lambda _, __: None) if selection.batches else finish
    )
    change_batches(selection, command, as_json=as_json)


def _group(selection: BatchSelection) -> str | None:
    """Return the pause of the group that is asked for: all batches, or those of a tenant; None of any other choice."""
    if selection.all_:
        return pauses.OF_ALL
    return pauses.of_tenant(str(selection.tenant)) if selection.is_of_tenant else None


def _end_beside_others(
    open_session: Session, selection: BatchSelection, group: str | None, chosen: Sequence[BatchStatus]
) -> None:
    """End the group's pause of batches that others keep paused, and tell how many stay paused and by what."""
    gone = {each.id for each in chosen} if selection.dry_run else set()
    staying = [
        each
        for each in statuses(open_session.engine, selection.filter())
        if each.state == BatchState.PAUSED and each.id not in gone
    ]
    reasons = defaultdict[str, list[str]](list)
    for found in staying:
        if group is not None and group in found.pauses and not selection.dry_run:
            pauses.end_pause(open_session.engine, found.id, group)
        others = [_said(each["by"]) for each in found.standing_pauses if each["by"] != group]
        by = [*others, *(["by a canary"] if found.is_stopped_by_canary else [])]
        if by:
            reasons[" and ".join(by)].append(found.name)
    for reason, names in reasons.items():
        stay = plural(len(names), "batch stays", "batches stay")
        note(
            f"{stay} paused, {reason}: {some_of(names, MOST_NAMED)}; `nightmill resume NAME` goes on with one"
        )


def _said(by: str) -> str:
    if by == pauses.BY_NAME:
        return "by name"
    return "with all" if by == pauses.OF_ALL else f"with those of {by.replace(':', ' ', 1)}"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
