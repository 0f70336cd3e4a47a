"""Error messages for a data folder that can't be used, naming the setting and the reason."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import ServiceError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@contextmanager
def named_by_its_setting(folder: Path) -> Iterator[None]:
    """Turn an OSError into a UsageError that names the setting, or a ServiceError if the disk is full or faulty."""
    try:
        yield
    except OSError as error:
        kind = ServiceError if error.errno in _FULL else UsageError
        place = f" ({error.filename})" if error.filename and str(error.filename) != str(folder) else ""
        raise kind(
            f"NIGHTMILL_DATA_DIR: the folder {folder} can't be used: {error.strerror}{place}; "
            "set it to a folder that is yours to write to"
        ) from error
