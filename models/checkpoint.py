"""From a card to the files of its checkpoint, vetted and named by a digest."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.catalogue import Card
from models.digests import folder_digest
from models.errors import CheckpointError
from models.vetting import vetted_files

_REVISION_FILE = "nightmill-revision.txt"


@dataclass(frozen=True)
class Checkpoint:
    """A card with its files at `path`.

    `revision` is the commit that `hf download --local-dir` noted, "random-<version>" for one that nightmill
    built, else "local". `digest` is the SHA-256 in hex over all paths and file digests.
    """

    card: Card
    path: Path
    revision: str
    digest: str


def resolve(card: Card, models_dir: Path) -> Checkpoint:
    """Finds the checkpoint of `card` under `models_dir`, or builds it when its builder is "random".

    Safe to call from several processes at once. Raises CheckpointError when the folder is missing, can't be
    written to, or holds what is refused (see `models.vetting`).
    """
    path = models_dir / card.source
    if not path.is_dir():
        if card.builder is None:
            raise CheckpointError(
                f"the model {card.id!r} is not there: expected a folder in diffusers format at {path}"
            )
        _build(card, models_dir)
    files = vetted_files(path)
    required = "config.json" if card.family == "safety-checker" else "model_index.json"
    if path / required not in files:
        raise CheckpointError(f"{path}: holds no {required}, so it is not in diffusers format")
    return Checkpoint(card, path, _revision(path), folder_digest(path, files))


def _build(card: Card, models_dir: Path) -> None:
    from models.tiny import REVISION, build  # noqa: PLC0415 - imports torch

    with _build_lock(models_dir):
        path = models_dir / card.source
        if path.is_dir():
            return
        unfinished = Path(tempfile.mkdtemp(dir=models_dir, prefix=".building-"))
        try:
            build(card, unfinished)
            (unfinished / _REVISION_FILE).write_text(f"{REVISION}\n", encoding="utf-8")
            unfinished.chmod(0o755)
            unfinished.rename(path)
        except OSError as error:
            raise CheckpointError(f"can't build the model {card.id!r} at {path}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _build_lock(models_dir: Path) -> Iterator[None]:
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock = (models_dir / ".build.lock").open("w")
    except OSError as error:
        raise CheckpointError(f"can't build a model under {models_dir}: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _revision(path: Path) -> str:
    """The first line of our own note, or of the one that `hf download --local-dir` leaves for a file."""
    notes = path / ".cache" / "huggingface" / "download"
    for note in (path / _REVISION_FILE, notes / "model_index.json.metadata", notes / "config.json.metadata"):
        if note.is_file():
            return note.read_text(encoding="utf-8").partition("\n")[0].strip()[:64]
    return "local"
