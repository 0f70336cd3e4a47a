"""`nightmill change`: a batch's priority, window and deadline."""

from datetime import UTC, datetime
from typing import Any

from console.command_options import NONE, Batch, Deadline, Json, NotBefore, Priority, Window
from console.commands.batch_control import change_batch
from console.terminal.output import note
from jobs.batches import actions
from jobs.batches.policy import parse_policy
from jobs.errors import UsageError


def change(
    batch: Batch,
    priority: Priority = None,
    window: Window = None,
    not_before: NotBefore = None,
    deadline: Deadline = None,
    as_json: Json = False,
) -> None:
    """Change when a batch is worked at, also while it runs; `none` takes a window or a moment back."""
    given = {"priority": priority, "window": window, "not_before": not_before, "deadline": deadline}
    texts = {key: str(value) for key, value in given.items() if value is not None}
    if not texts:
        raise UsageError("say what to change: --priority, --window, --not-before or --deadline")
    wanted = parse_policy({key: text for key, text in texts.items() if text != NONE or key == "priority"})
    schedule: dict[str, Any] = {key: getattr(wanted, key) for key in texts}
    change_batch(batch, as_json, lambda s, found: actions.change(s.engine, found.id, schedule))
    if wanted.deadline and wanted.deadline < datetime.now(UTC):
        note("that deadline has passed already")
