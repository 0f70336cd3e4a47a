"""What a user asks to export, and where to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.batches.actions import BatchStatus
from jobs.job_dataclasses import BatchId
from jobs.storage.open import ObjectStore
from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Exporter, exporter_of

OpenBatch = Callable[[BatchId], ObjectStore]
"""Opens the output of a batch, to read its images."""


def dataset_name(batches: Sequence[BatchStatus]) -> str:
    """Return the name of a dataset of these batches that is given none."""
    return "-".join(batch.name for batch in batches)


@dataclass(frozen=True)
class ExportRequest:
    """An export of one batch or several, as one dataset, to a folder of a store.

    `prefix` is empty or ends in a slash. `overwrite` allows deleting files there that have names of an export's and
    were written by somebody else; `replace` those of the export that were changed since it wrote them.
    `anew` has an export that is there written from its beginning, with all columns of this version; it stays live.
    """

    batches: Sequence[BatchStatus]
    format: str
    store: ObjectStore
    prefix: str = ""
    name: str = ""
    options: ExportOptions = field(default_factory=ExportOptions)
    is_live: bool = False
    overwrite: bool = False
    replace: bool = False
    anew: bool = False

    @property
    def dataset(self) -> str:
        """The name of the dataset: the batch's own, if it is one batch and no other is given."""
        return self.name or dataset_name(self.batches)

    @property
    def is_beside_images(self) -> bool:
        """Whether the export goes into the folder of its batch, which belongs to this installation."""
        first, *others = self.batches
        return not others and self.prefix.startswith(f"{first.folder}/")

    @property
    def exporter(self) -> Exporter:
        """The exporter of the format. Raises UsageError if there is none."""
        return exporter_of(self.format)(self.options)
