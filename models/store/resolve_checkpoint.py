"""Resolve a card to its checkpoint: files that are vetted and identified by a digest."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError
from models.runtime.file_lock import exclusive
from models.store.digests import FileDigest, file_digests, total_digest
from models.store.lockfile import LOCAL, Locked, compare, read_lock
from models.store.vetting import vetted_file, vetted_files

_PACKAGE_WEIGHTS = Path(__file__).parents[1] / "shapes" / "weights"
_REVISION_FILE = "nightmill-revision.txt"
_MAX_NOTE = 1000


@dataclass(frozen=True)
class Checkpoint:
    """A card with its files at `path`: a folder, or one .safetensors file.

    `revision` is the commit that it was pulled from, the content of nightmill's own note in the folder, or "local".
    `digest` is the SHA-256 in hex over all paths and file digests. `base` is the folder from which a single file takes
    its configuration and tokenizer.
    """

    card: Card
    path: Path
    revision: str
    digest: str
    base: Path | None = None

    @property
    def weight_bytes(self) -> int:
        """Total size of the weights on disk, in bytes."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*.safetensors")
        return sum(file.stat().st_size for file in files)

    @property
    def folder(self) -> Path:
        """The folder of the configurations and the tokenizer, in diffusers format."""
        return self.base or self.path


def resolve(card: Card, models_dir: Path) -> Checkpoint:
    """Find the checkpoint of `card`, or build it if its builder is "random".

    Safe to call from several processes at once. Raises CheckpointError when it is missing, contains refused files (see
    `models.store.vetting`) or differs from the lock file, ModelError if the lock file can't be read.
    """
    path = checkpoint_path(card, models_dir)
    if card.builder == "random" and not path.is_dir():
        _build(card, models_dir)
    digests = vetted_digests(card, path, models_dir)
    base = _base(card, path, models_dir)
    locked = read_lock(models_dir).get(card.id)
    if locked is None:
        return Checkpoint(card, path, noted_revision(path), total_digest(digests), base)
    compare(card.id, locked, path, digests)
    return Checkpoint(card, path, locked.revision, locked.digest, base)


def seal(card: Card, models_dir: Path) -> Locked:
    """Return the lock file entry for the current files of `card`, reading every byte again.

    Raises CheckpointError when the checkpoint is missing or contains refused files.
    """
    path = checkpoint_path(card, models_dir)
    digests = vetted_digests(card, path, None)
    before = read_lock(models_dir).get(card.id)
    if before is not None and before.digest == total_digest(digests):
        return before
    return Locked(LOCAL, noted_revision(path), tuple(digests))


def _base(card: Card, path: Path, models_dir: Path) -> Path | None:
    if card.family == "lora" or card.base is None or path.is_dir():
        return None
    return resolve(Catalogue.load(models_dir).get(card.base), models_dir).folder


def checkpoint_path(card: Card, models_dir: Path) -> Path:
    """Return the path where the files of `card` are, or will be."""
    if card.path is not None:
        return Path(card.path)
    return (_PACKAGE_WEIGHTS if card.builder == "package" else models_dir) / card.source


def vetted_digests(card: Card, path: Path, memory_dir: Path | None) -> list[FileDigest]:
    """Return the digests of all files at `path`, cached in `memory_dir` if one is given.

    Raises CheckpointError if files are missing or refused.
    """
    if path.is_file():
        files = [vetted_file(path)]
    elif path.is_dir():
        files = vetted_files(path)
        _check_kind(card, path, files)
    else:
        raise CheckpointError(
            f"{path}: is no regular file" if os.path.lexists(path) else _missing(card, path)
        )
    return file_digests(path if path.is_dir() else path.parent, files, memory_dir)


def _missing(card: Card, path: Path) -> str:
    if card.builder == "package":
        return f"the model {card.id!r} should have come with nightmill at {path}: install nightmill again"
    how = f"; fetch it with: nightmill models pull {card.id}" if card.sources else ""
    return f"the model {card.id!r} is not there: expected a folder in diffusers format at {path}{how}"


def _check_kind(card: Card, path: Path, files: Sequence[Path]) -> None:
    if card.family == "lora":
        if len([file for file in files if file.suffix == ".safetensors"]) != 1:
            raise CheckpointError(f"{path}: a LoRA's folder must hold one .safetensors file, no more")
        return
    required = "model_index.json" if card.family in {"text2image", "upscaler"} else "config.json"
    if path / required not in files:
        raise CheckpointError(f"{path}: holds no {required}, so it is not in diffusers format")


def _build(card: Card, models_dir: Path) -> None:
    from models.tiny_random.build import REVISION, build  # noqa: PLC0415 - imports torch

    with exclusive(models_dir, ".build.lock"):
        path = checkpoint_path(card, models_dir)
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


def noted_revision(path: Path) -> str:
    """Return the first line of nightmill's own note, or of the one that `hf download --local-dir` leaves for a file."""
    notes = path / ".cache" / "huggingface" / "download"
    for note in (path / _REVISION_FILE, notes / "model_index.json.metadata", notes / "config.json.metadata"):
        if note.is_file():
            with note.open("rb") as file:
                text = file.read(_MAX_NOTE).decode("utf-8", "replace")
            line = text.partition("\n")[0].strip()[:64]
            return line if line.isprintable() else ascii(line)[1:-1][:64]
    return LOCAL
