"""Where the rows of pictures are looked up: in the database, or in an export of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

HAS_OTHER_IMAGE = "has another image now"

MOST_BITS = 6
"""Of 64 bits of ISCC codes, by so many two pictures may differ to be said to be similar."""

ImageRow = dict[str, Any]
"""The fields of `jobs.images.find_rows_by_mark_or_digest.FIELDS`."""


class ImageIndex(Protocol):
    """Finds the rows of pictures."""

    installations: frozenset[UUID]
    """Whose rows these are: the installation, and those that the database was before it was restored here."""

    def of_job(self, job: int) -> ImageRow | None:
        """Return the row of a job's image."""

    def state_of_job(self, job: int) -> str | None:
        """Return what has become of a job, as in `is blocked (prompt holds …)`; None if nothing is known of it."""

    def copy_with_mark(self, mark: str) -> ImageRow | None:
        """Return a row whose file bears a mark, 16 hex digits: of a copy, where the job's own row is gone."""

    def of_manifest(self, id: str) -> ImageRow | None:
        """Return the row whose file has a manifest."""

    def of_pixels(self, pixels_sha256: str, size: tuple[int, int], file: str) -> ImageRow | None:
        """Return the row of a picture of (width, height) with these pixels, the one of the file's SHA-256 first."""

    def of_files(self, sha256: Sequence[str]) -> Mapping[str, ImageRow]:
        """Return the rows of files by their SHA-256. May read all rows."""

    def similar(self, code: str) -> tuple[ImageRow, int] | None:
        """Return the row with the nearest ISCC code and the bits that differ, `MOST_BITS` at most."""


class CodeTable:
    """ISCC codes of many rows, compared with one at once."""

    def __init__(self, numbers: Sequence[int], codes: Sequence[str]) -> None:
        """`numbers` are those of the rows; codes that can't be read are left out."""
        from models.provenance.iscc_code import bits_of  # noqa: PLC0415 - needs the worker's packages

        self._bits_of = bits_of
        known = [
            (number, bits) for number, code in zip(numbers, codes, strict=True) for bits in self._bits(code)
        ]
        self._numbers: NDArray[np.int64] = np.array([number for number, _ in known], np.int64)
        self._codes: NDArray[np.uint64] = np.array([bits for _, bits in known], np.uint64)

    def nearest(self, code: str) -> tuple[int, int] | None:
        """Return the number of the row that differs in the fewest bits, and their number; None if none is near."""
        found = self._bits(code)
        if not found or not len(self._codes):
            return None
        differing = np.bitwise_count(self._codes ^ np.uint64(found[0]))
        place = int(differing.argmin())
        bits = int(differing[place])
        return (int(self._numbers[place]), bits) if bits <= MOST_BITS else None

    def _bits(self, code: str) -> list[int]:
        try:
            return [self._bits_of(code)]
        except ValueError:
            return []
