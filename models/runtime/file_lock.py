"""File locks that serialise processes which write to the models folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from models.errors import ModelError


@contextmanager
def exclusive(models_dir: Path, name: str) -> Iterator[None]:
    """Hold an exclusive lock on the hidden file `name` in the models folder; other processes and threads wait.

    The system releases it when the process dies. Raises ModelError if the models folder can't be written to.
    """
    lock = FileLock(models_dir / name, fallback_to_soft=False)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ModelError(f"can't write to the models folder {models_dir}: {error}") from error
    try:
        yield
    finally:
        lock.release()
