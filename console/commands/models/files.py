"""`nightmill models pull|lock|add|remove`: manage the files of models."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from console.command_options import Json
from console.terminal.output import note, print_json, print_line
from jobs.errors import UsageError
from jobs.settings import load_settings
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError, ModelError
from models.optional_packages import require
from models.store.add import add_classifier, add_model
from models.store.lockfile import LOCK_FILE, Locked, compare, read_lock, write_lock
from models.store.pull import pull as pull_model
from models.store.resolve_checkpoint import checkpoint_path, seal

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="ids or aliases")]


def pull(
    models: Annotated[list[str], typer.Argument(metavar="ID...", help="ids or aliases")],
    with_upscaler: Annotated[bool, typer.Option(help="their upscalers too")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="only what nightmill.lock names, byte for byte; exit 1 otherwise")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch models, and the safety checkers and CLIP models that they name; the only command that reaches a hub."""
    require("worker")
    catalogue = _catalogue()
    for name in models:
        _warn_of_withdrawn(name, catalogue.get(name))
    cards = _with_links([catalogue.get(name) for name in models], catalogue, with_upscaler)
    if locked:
        _check_locked(cards, catalogue)
    done: list[dict[str, object]] = []
    for card in cards:
        is_new = pull_model(card, catalogue.models_dir, say=note, show_progress=sys.stderr.isatty())
        entry = read_lock(catalogue.models_dir)[card.id]
        path = str(checkpoint_path(card, catalogue.models_dir))
        done.append({"id": card.id, "is_new": is_new, "path": path, **_facts(entry)})
        if not as_json:
            print_line(f"{card.id} {'pulled to' if is_new else 'was here already:'} {path}")
    if as_json:
        print_json(done)


def lock(
    models: Ids = None,
    check: Annotated[bool, typer.Option("--check", help="compare only; exit 1 where a file differs")] = False,
    as_json: Json = False,
) -> None:
    """Write the digest of every file of these models, or of all that are here, into nightmill.lock."""
    require("worker")
    catalogue = _catalogue()
    locks = read_lock(catalogue.models_dir)
    sealed: dict[str, Locked] = {}
    for card in _to_lock(catalogue, models, locks, check):
        sealed[card.id] = seal(card, catalogue.models_dir)
        if check:
            if card.id not in locks:
                raise ModelError(f"{card.id} is not locked: nightmill models lock {card.id}")
            compare(
                card.id,
                locks[card.id],
                checkpoint_path(card, catalogue.models_dir),
                sealed[card.id].files,
            )
    if not check:
        write_lock(catalogue.models_dir, sealed)
    if as_json:
        print_json([{"id": id, **_facts(locked)} for id, locked in sealed.items()])
        return
    for id, locked in sealed.items():
        print_line(
            f"{id} {'is as locked' if check else 'locked'}: {len(locked.files)} files, {locked.digest}"
        )


def add(
    path: Annotated[Path, typer.Argument(help="a folder in diffusers format, or a .safetensors file")],
    id: Annotated[str, typer.Option("--id", help="what manifests call it")],
    base: Annotated[str | None, typer.Option(help="the model that it was made from")] = None,
    is_lora: Annotated[bool, typer.Option("--lora", help="it is a LoRA")] = False,
    flags: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=SCORE",
            help="it is an image classifier, a safety checker that flags images from this score of the label on; "
            "several times for several labels",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take in a model of your own where it lies: a fine-tune, a LoRA with --lora, a classifier with --flags."""
    require("worker")
    catalogue = _catalogue()
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    if flags and (base or is_lora):
        raise UsageError("--flags is for an image classifier, which has no --base and is no LoRA")
    if flags:
        card = add_classifier(path.absolute(), id=id, thresholds=flags, catalogue=catalogue)
    elif base:
        card = add_model(path.absolute(), id=id, base=base, is_lora=is_lora, catalogue=catalogue)
    else:
        raise UsageError(
            "name the model that it was made from with --base, or a classifier's labels with --flags"
        )
    locked = read_lock(catalogue.models_dir)[card.id]
    if as_json:
        print_json({"id": card.id, "path": card.path, **_facts(locked)})
    else:
        print_line(f"{card.id} added and locked: {card.path}")


def remove(
    model: Annotated[str, typer.Argument(help="id or alias")],
    yes: Annotated[bool, typer.Option("--yes", help="don't ask")] = False,
    as_json: Json = False,
) -> None:
    """Undo what pull or add made: the files that were pulled, the card that was added, what was locked."""
    catalogue = _catalogue()
    card = catalogue.get(model)
    doomed = _doomed(card, catalogue)
    if not yes:
        what = ", ".join([*map(str, doomed), f"what nightmill.lock says of {card.id}"])
        if not sys.stdin.isatty():
            raise UsageError(f"this removes {what}; say --yes")
        typer.confirm(f"Remove {what}?", abort=True, err=True)
    for path in doomed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_lock(catalogue.models_dir, {card.id: None})
    if as_json:
        print_json({"id": card.id, "removed": [str(path) for path in doomed]})
    else:
        print_line(f"{card.id} removed")


def _catalogue() -> Catalogue:
    return Catalogue.load(load_settings().models_path)


def _facts(locked: Locked) -> dict[str, object]:
    size = sum(file.size for file in locked.files)
    return {
        "source": locked.source,
        "revision": locked.revision,
        "digest": locked.digest,
        "files": len(locked.files),
        "bytes": size,
    }


def _warn_of_withdrawn(name: str, card: Card) -> None:
    dead = {repository.casefold() for repository in card.withdrawn}
    if name.strip().casefold() in dead:
        note(
            f"{name} was withdrawn from the hub; {card.id} is pulled from {card.sources[0].partition('@')[0]}"
        )


def _with_links(cards: list[Card], catalogue: Catalogue, with_upscaler: bool) -> list[Card]:
    """Return the cards and those that they link to, each once; of the linked ones, only those that can be pulled."""
    wanted = list(cards)
    for card in wanted:
        links = [card.safety_checker, card.clip, card.upscaler if with_upscaler else None]
        linked = [catalogue.get(link) for link in links if link]
        wanted += [other for other in linked if other not in wanted and other.sources]
    return wanted


def _check_locked(cards: list[Card], catalogue: Catalogue) -> None:
    """Raise ModelError, before anything is fetched, if the lock file lacks one of the models."""
    locks = read_lock(catalogue.models_dir)
    if missing := [card.id for card in cards if card.id not in locks]:
        raise ModelError(
            f"{catalogue.models_dir / LOCK_FILE} does not name {', '.join(missing)}; nothing was pulled. Pull "
            "without --locked where you trust the hub, and bring that lock file here"
        )


def _to_lock(
    catalogue: Catalogue, names: list[str] | None, locks: dict[str, Locked], check: bool
) -> list[Card]:
    if names:
        return [catalogue.get(name) for name in names]
    if check:
        return [catalogue.get(id) for id in locks]
    own = [card for card in catalogue.cards() if card.builder != "package"]
    return [card for card in own if checkpoint_path(card, catalogue.models_dir).exists()]


def _doomed(card: Card, catalogue: Catalogue) -> list[Path]:
    """Return the paths that removing the card's model deletes; never the user's own files."""
    if card.builder == "package":
        raise UsageError(f"{card.id} comes with nightmill and can't be removed")
    own = catalogue.models_dir / "cards" / f"{card.id}.toml"
    if card.path is not None and own.is_file():
        users = [other.id for other in catalogue.cards() if other.base == card.id]
        if users:
            raise UsageError(f"{', '.join(users)} is based on {card.id}; remove that first")
        return [own]
    folder = checkpoint_path(card, catalogue.models_dir)
    if card.path is None and folder.is_dir():
        return [folder]
    if card.id not in read_lock(catalogue.models_dir):
        raise CheckpointError(f"there is nothing to remove of {card.id} at {folder}")
    return []
