"""The dataset that an export makes: what its index files describe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.batches.status import BatchStatus
from jobs.exports.records import File
from jobs.images.where_expression import Condition, chosen_by
from jobs.job_dataclasses import BatchId
from scheduler.export.exporters import Exporter


@dataclass(frozen=True)
class Dataset:
    """An export whose shards are written."""

    name: str
    batches: Sequence[BatchStatus]
    exporter: Exporter
    files: Sequence[File]
    """Those of the shards' current versions, in the order of the shards."""
    read: Callable[[str], bytes]
    """Reads a file of the export by its name."""
    images: Callable[[BatchId, pa.RecordBatch], Iterator[bytes]]
    """Reads image files of a batch, whose `key` and `sha256` are given; raises as `Shard.files` does."""
    is_stamped: bool = False
    """Whether shards have time stamps."""

    @property
    def condition(self) -> Condition:
        """What the images of its batches had to meet."""
        return chosen_by(self.exporter.options.where)

    @property
    def names(self) -> list[str]:
        """The names of all files."""
        return [file["name"] for file in self.files]

    @property
    def splits(self) -> dict[str, list[str]]:
        """What holds each split: names or patterns."""
        with_rows = [file["name"] for file in self.files if file["rows"] is not None]
        return {name: list(found) for name, found in self.exporter.splits(with_rows).items()}
