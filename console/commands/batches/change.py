"""`nightmill change`: those keys of batches' policies that may change while they run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from console.command_options import NONE, Deadline, Json, NotBefore, Priority, Set, Window
from console.command_options_from_dataclass import takes
from console.session import Session
from console.several_batches.batch_selection_options import BatchSelection
from console.several_batches.change_each_batch import BatchCommand, change_batches, told_state
from console.terminal.output import note
from jobs.batches import actions
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.policy.parse_set_options import parse_changes
from jobs.webhooks.batch_end_hooks import check_hook


@takes(BatchSelection)
def change(
    selection: BatchSelection,
    priority: Priority = None,
    window: Window = None,
    not_before: NotBefore = None,
    deadline: Deadline = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Change when batches are worked at, also while they run; `none` takes a window or a moment back."""
    given = {"priority": priority, "window": window, "not_before": not_before, "deadline": deadline}
    changes = _changes(given, set_ or ())

    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        if hook := changes.get("on_end"):
            check_hook(hook, allows_commands=open_session.settings.allows_commands)
        actions.change(open_session.engine, found.id, changes)
        return told_state(open_session, found, as_json)

    change_batches(selection, BatchCommand(done="changed", change=apply), as_json=as_json)
    deadline_at = changes.get("deadline")
    if deadline_at and deadline_at < datetime.now(UTC):
        note("that deadline has passed already")


def _changes(given: Mapping[str, object], options: Sequence[str]) -> dict[str, Any]:
    texts = _pairs(options) | {key: str(value) for key, value in given.items() if value is not None}
    if not texts:
        raise UsageError(
            "say what to change: --priority, --window, --not-before, --deadline or --set KEY=VALUE"
        )
    return parse_changes({key: None if text == NONE else text for key, text in texts.items()})


def _pairs(options: Sequence[str]) -> dict[str, str]:
    pairs = (option.partition("=") for option in options)
    return {key.strip(): value for key, _, value in pairs}
