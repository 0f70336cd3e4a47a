"""A batch's image rows page by page, so that long work on them holds no transaction open."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.images.records import COLUMNS, record
from jobs.job import BatchId

PAGE = 500
_SAMPLE = 1000

_PAGE = text(f"""
    SELECT {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE i.batch_id = :batch AND (i.ordinal, i.index) > (:ordinal, :index) ORDER BY i.ordinal, i.index LIMIT :limit
""")

_MODELS = text(
    "SELECT model, count(*) AS images FROM images WHERE batch_id = :batch GROUP BY model ORDER BY model"
)

_META_COLUMNS = text("""
    SELECT DISTINCT json_object_keys(meta) AS name FROM (
        SELECT meta FROM images WHERE batch_id = :batch ORDER BY ordinal, index LIMIT :sample) AS first ORDER BY 1
""")


def pages_of(engine: Engine, batch: BatchId, *, size: int = PAGE) -> Iterator[list[dict[str, Any]]]:
    """The image records of a batch in manifest order, up to `size` at a time, each page a transaction of its own."""
    after = {"ordinal": -1, "index": 0}
    while rows := run(engine, _PAGE, {"batch": batch, "limit": size, **after}):
        page = [record(row) for row in rows]
        yield page
        after = {name: page[-1][name] for name in after}


def images_by_model(engine: Engine, batch: BatchId) -> dict[str, int]:
    """How many images each model has made."""
    return {row.model: row.images for row in run(engine, _MODELS, {"batch": batch})}


def meta_columns(engine: Engine, batch: BatchId) -> Sequence[str]:
    """The manifest's own columns, as the first images of the batch have them."""
    return [row.name for row in run(engine, _META_COLUMNS, {"batch": batch, "sample": _SAMPLE})]
