"""Columns of input images: references are made absolute and checked once each."""

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence

from jobs.input_image_access import file_problem, is_allowed, outside
from jobs.manifest.values import NOT_STORABLE, ProblemError, free_text, missing, shown

PICTURE_COLUMNS = ("init_image", "mask_image", "depth_image")
MAX_LOCATION = 2_000
_REMEMBERED = 20_000


class _RefusedError(Exception):
    """A reference that can't be used; the message is the reason."""


class PictureFinder:
    """Resolves and checks the input images of one manifest.

    Relative paths start at `base`, a folder or s3:// prefix; images must be below one of `roots`; if empty, anywhere.
    Local files are checked for existence; S3 objects are not checked before they are read.
    """

    def __init__(self, base: str, roots: Sequence[str]) -> None:
        self._base = base
        self._roots = roots
        self._found: dict[str, str | _RefusedError] = {}

    def readers(self) -> Mapping[str, Callable[[object], str | None]]:
        """Return a parser for each image column: it returns an absolute path or s3:// URI, None if empty."""
        return {column: self._reader(column) for column in PICTURE_COLUMNS}

    def _reader(self, column: str) -> Callable[[object], str | None]:
        def read(value: object) -> str | None:
            if missing(value):
                return None
            found = self._find(free_text(column, value, MAX_LOCATION).strip())
            if isinstance(found, _RefusedError):
                raise ProblemError(column, str(found))
            return found

        return read

    def _find(self, reference: str) -> str | _RefusedError:
        found = self._found.get(reference)
        if found is None:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            try:
                found = self._checked(self._absolute(reference))
            except _RefusedError as refused:
                found = refused
            self._found[reference] = found
        return found

    def _absolute(self, reference: str) -> str:
        if reference.startswith("s3://"):
            return _object(reference)
        if "://" in reference:
            raise _RefusedError(
                f"{shown(reference)}: pictures are read from paths and s3://bucket/key; download it first"
            )
        if self._base.startswith("s3://") and not reference.startswith("/"):
            bucket, _, prefix = self._base.removeprefix("s3://").partition("/")
            key = posixpath.normpath(posixpath.join(prefix, reference))
            return _object(f"s3://{bucket}/{key}")
        return os.path.abspath(os.path.join(self._base, reference))  # noqa: PTH100, PTH118 - pathlib takes thrice as long

    def _checked(self, location: str) -> str:
        problem = None if location.startswith("s3://") else file_problem(location)
        if not is_allowed(location, self._roots):
            problem = outside(location)
        if NOT_STORABLE.search(location):
            problem = f"{shown(location)} is not UTF-8, so that it can't be stored; rename it"
        if problem:
            raise _RefusedError(problem)
        return location


def _object(uri: str) -> str:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key or key.endswith("/") or key == ".." or key.startswith("../"):
        raise _RefusedError(f"{shown(uri)} names no object; write s3://bucket/path/to/picture.png")
    return uri
