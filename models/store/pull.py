"""Download a model from its sources into the models folder: vetted, locked, and completely or not at all."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from models.catalogue.card import Card
from models.errors import CheckpointError, ModelError
from models.runtime.file_lock import exclusive
from models.store.digests import FileDigest
from models.store.hub import Listing, UnavailableError, fetch, list_files
from models.store.hub_files import wanted_files
from models.store.lockfile import Locked, compare, read_lock, write_lock
from models.store.resolve_checkpoint import checkpoint_path, seal, vetted_digests

_ORIGIN = ".nightmill-origin"
_SPARE_BYTES = 100_000_000


def pull(card: Card, models_dir: Path, *, say: Callable[[str], None], show_progress: bool = False) -> bool:
    """Download `card` from the first source that has it, and lock it; return False if it was already there.

    An interrupted call leaves no partial model where models are looked up, and the next call downloads only what is
    missing. Raises ModelError if no source has it or the hub can't be reached, CheckpointError if downloaded files are
    refused.
    """
    if not card.sources:
        raise ModelError(f"{card.id} has no source to pull from: {_whence(card)}")
    with exclusive(models_dir, ".pull.lock"):
        if checkpoint_path(card, models_dir).is_dir():
            write_lock(models_dir, {card.id: _checked(card, models_dir)})
            return False
        _pull_from_first(card, models_dir, say, show_progress)
        return True


def _whence(card: Card) -> str:
    places = {"random": "it is built on first use", "package": "it comes with nightmill"}
    return places.get(card.builder or "", "it is a folder or file of yours")


def _checked(card: Card, models_dir: Path) -> Locked:
    now = seal(card, models_dir)
    before = read_lock(models_dir).get(card.id)
    if before is not None:
        compare(card.id, before, checkpoint_path(card, models_dir), now.files)
    return now


def _pull_from_first(card: Card, models_dir: Path, say: Callable[[str], None], show_progress: bool) -> None:
    reasons = []
    for source in card.sources:
        try:
            _pull_from(source, card, models_dir, say, show_progress)
        except UnavailableError as error:
            say(f"{error}{'; trying the next source' if source != card.sources[-1] else ''}")
            reasons.append(str(error))
        else:
            return
    raise ModelError(
        f"no source of {card.id} can be had: {'; '.join(reasons)}. Put a copy in diffusers format at"
        f" {checkpoint_path(card, models_dir)} and lock it: nightmill models lock {card.id}"
    )


def _pull_from(
    source: str, card: Card, models_dir: Path, say: Callable[[str], None], show_progress: bool
) -> None:
    repository, _, pinned = source.partition("@")
    locked = read_lock(models_dir).get(card.id)
    is_same = locked is not None and locked.source == repository
    say(f"{card.id}: asking for {repository}")
    listing = list_files(repository, locked.revision if locked and is_same else pinned or None)
    try:
        names = wanted_files(card, repository, [file.name for file in listing.files])
    except CheckpointError as error:
        raise UnavailableError(str(error)) from error
    unfinished = _unfinished(models_dir / f".pulling-{card.source}", listing)
    _check_space(listing, names, unfinished)
    say(f"{card.id}: {len(names)} files from {repository} at {listing.commit[:12]}")
    fetch(listing, list(names), unfinished, show_progress=show_progress)
    digests = _accept(card, listing, names, unfinished)
    if locked:
        compare(card.id, locked, unfinished, digests)
    write_lock(models_dir, {card.id: Locked(repository, listing.commit, tuple(digests))})
    (unfinished / _ORIGIN).unlink()
    unfinished.rename(checkpoint_path(card, models_dir))


def _unfinished(folder: Path, listing: Listing) -> Path:
    """Return the download folder with what an earlier pull of the same commit left, or an empty one."""
    origin = f"{listing.repository}@{listing.commit}"
    note = folder / _ORIGIN
    if folder.is_dir() and not (note.is_file() and note.read_bytes() == origin.encode()):
        shutil.rmtree(folder)
    for piece in folder.rglob("*.incomplete"):  # the hub's client doesn't resume these files
        piece.unlink()
    folder.mkdir(exist_ok=True)
    note.write_text(origin, encoding="utf-8")
    return folder


def _check_space(listing: Listing, names: Mapping[str, str], folder: Path) -> None:
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = sum(file.size for file in listing.files if file.name in names) - there + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{folder.parent}: {needed / 1e9:.1f} GB are needed for {listing.repository}, {free / 1e9:.1f} GB"
            " are free; make room, or name another folder with NIGHTMILL_MODELS_DIR"
        )


def _accept(card: Card, listing: Listing, names: Mapping[str, str], folder: Path) -> list[FileDigest]:
    """Rename the downloaded files to their local names and check them; on refusal, delete the folder."""
    try:
        for remote, local in names.items():
            if remote != local:
                (folder / remote).rename(folder / local)
        for part in card.parts:
            shutil.rmtree(folder / part, ignore_errors=True)
        digests = vetted_digests(card, folder, None)
        _compare_with_hub(listing, names, {digest.name: digest for digest in digests})
    except CheckpointError:
        shutil.rmtree(folder)
        raise
    return digests


def _compare_with_hub(listing: Listing, names: Mapping[str, str], found: Mapping[str, FileDigest]) -> None:
    promised = {names[file.name]: file for file in listing.files if file.name in names}
    for name, file in promised.items():
        digest = found.get(name)
        if digest is None or digest.size != file.size or file.sha256 not in {None, digest.sha256}:
            raise CheckpointError(
                f"{name} of {listing.repository} came other than the hub says that it is; pull again"
            )
