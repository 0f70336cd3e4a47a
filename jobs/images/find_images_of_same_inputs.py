"""Finds images that were made of the same inputs as a job's, so that they can be copied instead of rendered again."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.images.insert_and_public_columns import worker_columns

_FOUND = text(f"""
    SELECT found.* FROM unnest(CAST(:digests AS text[])) AS wanted (digest),
        LATERAL (
            SELECT i.id, b.output, {", ".join(f'i."{name}"' for name in worker_columns())}
            FROM images i JOIN batches b ON b.id = i.batch_id
            WHERE i.inputs_sha256 = wanted.digest
                AND i.id <> ALL (CAST(:images AS bigint[])) AND b.output <> ALL (CAST(:outputs AS text[]))
            LIMIT 1) AS found
""")


@dataclass(frozen=True)
class ReusableImage:
    """An image whose file can be copied: its output, and the columns of its row that its worker brought."""

    id: int
    output: str
    columns: Mapping[str, Any]

    @property
    def rendered_as(self) -> int:
        """The image row for which the file was rendered: this one, unless its file was copied, too."""
        return int(self.columns["reused_from"] or self.id)

    @property
    def key(self) -> str:
        """The file within the output."""
        return str(self.columns["key"])

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, in hex."""
        return str(self.columns["sha256"])

    @property
    def sidecar_sha256(self) -> str | None:
        """The SHA-256 of the manifest beside the file, in hex; None if there is none."""
        found: str | None = self.columns["c2pa_sidecar_sha256"]
        return found


def images_of_same_inputs(
    engine: Engine,
    digests: Collection[str],
    *,
    except_images: Collection[int] = (),
    except_outputs: Collection[str] = (),
) -> dict[str, ReusableImage]:
    """Return one image for each of these values of `inputs_sha256` that any batch has an image of."""
    if not digests:
        return {}
    values = {"digests": list(digests), "images": list(except_images), "outputs": list(except_outputs)}
    rows = [dict(row._mapping) for row in run(engine, _FOUND, values)]
    return {
        row["inputs_sha256"]: ReusableImage(row.pop("id"), row.pop("output"), columns=row) for row in rows
    }
