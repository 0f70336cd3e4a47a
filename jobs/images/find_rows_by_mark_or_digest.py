"""Image rows as told to somebody who has found a picture: by job, mark, digest or ISCC code."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, bindparam, text

from jobs.db.engine import run
from jobs.images.insert_and_public_columns import public_columns
from jobs.states import EventKind

FIELDS = {
    "image": "i.id",
    "job": "i.job_id",
    "batch": "b.id",
    "name": "b.name",
    "ordinal": "i.ordinal",
    "index": 'i."index"',
    "row_id": "i.row_id",
    "prompt": "i.prompt",
    "model": "i.model",
    "seed": "i.seed",
    "safety_verdict": "i.safety_verdict",
    "watermark": "i.watermark",
    "iscc": "i.iscc",
    "phash": "i.phash",
    "sha256": "i.sha256",
    "width": "i.width",
    "height": "i.height",
    "c2pa_manifest_id": "i.c2pa_manifest_id",
    "c2pa_sidecar_sha256": "i.c2pa_sidecar_sha256",
    "created_at": "i.created_at",
}
"""What is told of a row, with its SQL where the image is `i` and its batch `b`."""

_SELECTED = ", ".join(f'{sql} AS "{name}"' for name, sql in FIELDS.items())
_ROWS = "SELECT {selected} FROM images i JOIN batches b ON b.id = i.batch_id WHERE {condition}"


def _rows(condition: str) -> str:
    return _ROWS.format(selected=_SELECTED, condition=condition)


_OF_JOB = text(_rows("i.job_id = :job"))
_STATE = text(f"""
    SELECT state, coalesce(error_text, (
        SELECT detail ->> 'reason' FROM events e
        WHERE e.batch_id = j.batch_id AND e.ordinal = j.ordinal AND e."index" = j."index" AND e.job_id = :job
          AND kind = '{EventKind.RETRACTED}'
        ORDER BY e.id DESC LIMIT 1)) AS reason
    FROM (
        SELECT batch_id, ordinal, "index", state, error_text FROM jobs WHERE id = :job
        UNION ALL
        SELECT batch_id, ordinal, "index", state, error_text FROM archived_jobs WHERE job_id = :job) AS j
    LIMIT 1
""")
_COPY = text(
    _rows(
        "i.watermark = :mark AND i.watermark_method = 'tiled' AND i.reused_from IS NOT NULL ORDER BY i.id LIMIT 1"
    )
)
_OF_PIXELS = text(
    _rows(
        "i.pixels_sha256 = :pixels AND i.width = :width AND i.height = :height "
        "ORDER BY i.sha256 = :file DESC, i.id LIMIT 1"
    )
)
_OF_MANIFEST = text(_rows("i.c2pa_manifest_id = :id ORDER BY i.id LIMIT 1"))
_OF_FILES = text(_rows("i.sha256 = ANY (:files) ORDER BY i.id")).bindparams(bindparam("files"))
_BY_ID = text(_rows("i.id = :id"))
_COLUMNS = ", ".join(f'{column.sql} AS "{column.name}"' for column in public_columns())
_RECORD = text(_ROWS.format(selected=_COLUMNS, condition="i.id = :id"))
_CODES = text("SELECT id, iscc FROM images WHERE iscc IS NOT NULL")


def image_of_job(engine: Engine, job: int) -> dict[str, Any] | None:
    """Return the row of a job's image; None if there is none."""
    return _first(engine, _OF_JOB, {"job": job})


def state_of_job(engine: Engine, job: int) -> tuple[str, str | None] | None:
    """Return a job's state and why it has failed, was blocked or retracted.

    None if there is no such job; those that ended with an image are gone once their batch is archived.
    """
    found = _first(engine, _STATE, {"job": job})
    return (found["state"], found["reason"]) if found else None


def copy_with_mark(engine: Engine, mark: str) -> dict[str, Any] | None:
    """Return the first copy whose file bears a tiled mark, 16 hex digits: for where the job's own row is gone."""
    return _first(engine, _COPY, {"mark": mark})


def image_of_pixels(
    engine: Engine, pixels_sha256: str, size: tuple[int, int], file: str
) -> dict[str, Any] | None:
    """Return the first row whose file has these pixels in a picture of (width, height); None if there is none.

    One whose file has the SHA-256 `file` goes before others. Rows of versions before have no digest of their pixels.
    """
    values = {"pixels": pixels_sha256, "width": size[0], "height": size[1], "file": file}
    return _first(engine, _OF_PIXELS, values)


def image_of_manifest(engine: Engine, id: str) -> dict[str, Any] | None:
    """Return the first row whose file has a manifest; None if there is none."""
    return _first(engine, _OF_MANIFEST, {"id": id})


def images_of_files(engine: Engine, sha256: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the first row of each of some files, by their SHA-256. Reads all rows."""
    found: dict[str, dict[str, Any]] = {}
    for row in run(engine, _OF_FILES, {"files": list(sha256)}):
        found.setdefault(row.sha256, dict(row._mapping))
    return found


def image_by_id(engine: Engine, image: int) -> dict[str, Any] | None:
    """Return an image row; None if there is none."""
    return _first(engine, _BY_ID, {"id": image})


def image_record(engine: Engine, image: int) -> dict[str, Any] | None:
    """Return all public columns of an image row, by the names that exports have for them; None if there is none."""
    record = _first(engine, _RECORD, {"id": image})
    return record and record | {"seed": int(record["seed"])}


def iscc_codes(engine: Engine) -> tuple[list[int], list[str]]:
    """Return the numbers and the ISCC codes of all image rows that have one."""
    rows = run(engine, _CODES, {})
    return [row.id for row in rows], [row.iscc for row in rows]


def _first(engine: Engine, statement: Any, values: dict[str, object]) -> dict[str, Any] | None:
    for row in run(engine, statement, values):
        return dict(row._mapping)
    return None
