"""`nightmill change`: those keys of a batch's policy that may change while it runs."""

from collections.abc import Sequence
from datetime import UTC, datetime

from console.command_options import NONE, Batch, Deadline, Json, NotBefore, Priority, Set, Window
from console.commands.batches.pause_resume_cancel_retry import change_batch
from console.terminal.output import note
from jobs.batches import actions
from jobs.errors import UsageError
from jobs.policy.parse_set_options import parse_changes


def change(
    batch: Batch,
    priority: Priority = None,
    window: Window = None,
    not_before: NotBefore = None,
    deadline: Deadline = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Change when a batch is worked at, also while it runs; `none` takes a window or a moment back."""
    given = {"priority": priority, "window": window, "not_before": not_before, "deadline": deadline}
    texts = _pairs(set_ or ()) | {key: str(value) for key, value in given.items() if value is not None}
    if not texts:
        raise UsageError(
            "say what to change: --priority, --window, --not-before, --deadline or --set KEY=VALUE"
        )
    changes = parse_changes({key: None if text == NONE else text for key, text in texts.items()})
    change_batch(batch, as_json, lambda s, found: actions.change(s.engine, found.id, changes))
    deadline_at = changes.get("deadline")
    if deadline_at and deadline_at < datetime.now(UTC):
        note("that deadline has passed already")


def _pairs(options: Sequence[str]) -> dict[str, str]:
    pairs = (option.partition("=") for option in options)
    return {key.strip(): value for key, _, value in pairs}
