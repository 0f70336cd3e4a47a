"""Looks up pictures in the database."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from sqlalchemy import Engine

from console.provenance_lookup.image_index import HAS_OTHER_IMAGE, CodeTable, ImageRow
from jobs.db.installation_id import this_installation
from jobs.images import find_rows_by_mark_or_digest
from jobs.states import JobState


class DatabaseIndex:
    """The image rows of this installation."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        here = this_installation(engine)
        self.installations = frozenset({here.id, *here.earlier})

    def of_job(self, job: int) -> ImageRow | None:
        """Return the row of a job's image."""
        return find_rows_by_mark_or_digest.image_of_job(self._engine, job)

    def state_of_job(self, job: int) -> str | None:
        """Return what has become of a job; None if there is none."""
        found = find_rows_by_mark_or_digest.state_of_job(self._engine, job)
        if found is None:
            return None
        state, reason = found
        if state == JobState.DONE:
            return HAS_OTHER_IMAGE if self.of_job(job) else None
        return f"is {state}" + (f" ({reason})" if reason else "")

    def copy_with_mark(self, mark: str) -> ImageRow | None:
        """Return a row whose file bears the mark."""
        return find_rows_by_mark_or_digest.copy_with_mark(self._engine, mark)

    def of_manifest(self, id: str) -> ImageRow | None:
        """Return the row whose file has a manifest."""
        return find_rows_by_mark_or_digest.image_of_manifest(self._engine, id)

    def of_pixels(self, pixels_sha256: str, size: tuple[int, int], file: str) -> ImageRow | None:
        """Return the row of a picture of (width, height) with these pixels, the one of the file's SHA-256 first."""
        return find_rows_by_mark_or_digest.image_of_pixels(self._engine, pixels_sha256, size, file)

    def of_files(self, sha256: Sequence[str]) -> Mapping[str, ImageRow]:
        """Return the rows of files by their SHA-256. Reads all rows."""
        return find_rows_by_mark_or_digest.images_of_files(self._engine, sha256)

    def similar(self, code: str) -> tuple[ImageRow, int] | None:
        """Return the row with the nearest ISCC code and the bits that differ."""
        found = self._codes.nearest(code)
        row = found and find_rows_by_mark_or_digest.image_by_id(self._engine, found[0])
        return (row, found[1]) if found and row else None

    @cached_property
    def _codes(self) -> CodeTable:
        return CodeTable(*find_rows_by_mark_or_digest.iscc_codes(self._engine))
