"""File locks that serialise processes which write to the models folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import ModelError


@contextmanager
def exclusive(models_dir: Path, name: str) -> Iterator[None]:
    """Hold an exclusive lock on the hidden file `name` in the models folder; other processes wait.

    Raises ModelError if the models folder can't be written to.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        guard = (models_dir / name).open("w")
    except OSError as error:
        raise ModelError(f"can't write to the models folder {models_dir}: {error}") from error
    with guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield
