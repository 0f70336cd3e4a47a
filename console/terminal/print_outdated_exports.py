"""Say which exports still hold images that were taken out of their batches, as nobody writes these unasked."""

from collections.abc import Sequence

from console.terminal.output import note
from jobs.exports.records import Export
from jobs.suggest_names_and_shorten_lists import some_of

MOST_NAMED = 5


def print_outdated_exports(exports: Sequence[Export]) -> None:
    """Say which exports hold what was taken out, until they are written again."""
    if exports:
        named = [f"{export.name} ({export.format}) in {export.place}" for export in exports]
        note(
            f"until the next `nightmill export` what was taken out is still in: {some_of(named, MOST_NAMED)}"
        )
