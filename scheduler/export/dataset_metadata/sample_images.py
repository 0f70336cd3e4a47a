"""Up to four of a dataset's images, for its card."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine, Row, text

from jobs.db.engine import run
from jobs.errors import ObjectStoreError
from jobs.states import ImageFormat
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.exporters import WrittenFile

FOLDER = ".pictures"
"""Programs that load a folder of images pass over names that begin with a dot."""

_MOST = 4
_CANDIDATES = """
    SELECT key, sha256, format, meta ->> :class_key AS class FROM images i JOIN batches b ON b.id = batch_id
    WHERE batch_id = :batch AND safety_verdict = 'safe' AND {condition} ORDER BY ordinal, index LIMIT 1000
"""


def write_pictures(
    engine: Engine, dataset: Dataset, class_key: str | None, folder: Path
) -> list[WrittenFile]:
    """Copy safe images, of different classes if it can; none if they can't be read."""
    condition = dataset.condition
    query = text(_CANDIDATES.format(condition=condition.sql))
    for batch in dataset.batches:
        values = {"batch": batch.id, "class_key": class_key or "", **condition.values}
        found = run(engine, query, values)
        if chosen := _choose(found):
            rows = pa.record_batch(
                {name: [getattr(row, name) for row in chosen] for name in ("key", "sha256")}
            )
            with suppress(ObjectStoreError):
                return _write(folder, chosen, list(dataset.images(batch.id, rows)))
    return []


def _choose(found: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Return images of different classes, as far as there are so many; the others are the first ones."""
    firsts = {row[3]: row for row in reversed(found)}
    different = sorted(firsts.values(), key=found.index)
    return [*different, *(row for row in found if row not in different)][:_MOST]


def _write(folder: Path, rows: Sequence[Row[Any]], contents: Sequence[bytes]) -> list[WrittenFile]:
    (folder / FOLDER).mkdir()
    written = []
    for number, (row, content) in enumerate(zip(rows, contents, strict=True)):
        format = ImageFormat(row.format)
        name = f"{FOLDER}/{number}.{format.extension}"
        (folder / name).write_bytes(content)
        written.append(WrittenFile(name, format.media_type))
    return written
