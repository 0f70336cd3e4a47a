"""Say which exports still hold images that were taken out of their batches, as nobody writes these unasked."""

from collections.abc import Iterable

from sqlalchemy import Engine

from console.terminal.output import note
from jobs.exports.records import Export, outdated_exports
from jobs.job_dataclasses import BatchId
from jobs.suggest_names_and_shorten_lists import some_of

MOST_NAMED = 5


def find_outdated_exports(engine: Engine, batches: Iterable[BatchId]) -> list[Export]:
    """Return the finished exports of batches that aren't as their rows are now, without those that are live."""
    found = {export.id: export for batch in batches for export in outdated_exports(engine, batch)}
    return list(found.values())


def note_outdated_exports(exports: list[Export]) -> None:
    """Say which exports hold what was taken out, until they are written again."""
    if exports:
        named = [f"{export.name} ({export.format}) in {export.place}" for export in exports]
        note(
            f"until the next `nightmill export` what was taken out is still in: {some_of(named, MOST_NAMED)}"
        )
