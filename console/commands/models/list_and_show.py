"""`nightmill models`: list the catalogue and show cards."""

from pathlib import Path
from typing import Annotated

import typer

from console.command_options import Json
from console.commands.models import files
from console.commands.models.tune import capacities, tune
from console.terminal.output import print_facts, print_json, print_table
from jobs.settings import load_settings
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.runtime.batch_size_profile import Profile
from models.store.lockfile import Locked, read_lock
from models.store.resolve_checkpoint import checkpoint_path

models = typer.Typer(
    help="The models that a manifest can name.", invoke_without_command=True, add_completion=False
)
for command in (files.pull, files.lock, files.add, files.remove, tune):
    models.command()(command)

_Locks = dict[str, Locked]


@models.callback()
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """The models that a manifest can name; `show ID` prints a card."""
    if context.invoked_subcommand:
        return
    catalogue = _catalogue()
    locks = read_lock(catalogue.models_dir)
    cards = catalogue.cards()
    if as_json:
        print_json([_fields(catalogue, card, locks) for card in cards])
        return
    columns = ("id", "family", "size", "modes", "sampler", "steps", "here", "locked", "title")
    print_table(columns, [_row(catalogue, card, locks) for card in cards])


@models.command()
def show(model: Annotated[str, typer.Argument(help="id or alias")], as_json: Json = False) -> None:
    """One model's card: what it is, what it takes, what it can't do, what may be done with it."""
    catalogue = _catalogue()
    fields = _fields(catalogue, catalogue.get(model), read_lock(catalogue.models_dir))
    if as_json:
        print_json(fields)
        return
    print_facts(
        {
            name.replace("_", " "): _text(value)
            for name, value in fields.items()
            if value not in ("", 0, [], (), None) and name not in _unread(str(fields["family"]))
        }
    )


def _unread(family: str) -> set[str]:
    """Return the fields that have no meaning for a model of this family."""
    if family == "text2image":
        return {"noise_level", "max_noise_level"}
    of_pictures = {"strength", "prediction_type", "noise_level", "max_noise_level"}
    return {"strength"} if family == "upscaler" else of_pictures


def _catalogue() -> Catalogue:
    return Catalogue.load(load_settings().models_path)


def _fields(catalogue: Catalogue, card: Card, locks: _Locks) -> dict[str, object]:
    locked = locks.get(card.id)
    lock = locked and {
        "source": locked.source,
        "revision": locked.revision,
        "digest": locked.digest,
        "files": len(locked.files),
    }
    where = _path(catalogue, card)
    drawn = capacities(Profile(catalogue.models_dir), card)
    return card.model_dump() | {"path": str(where), "is_here": where.exists(), "lock": lock, "at_once": drawn}


def _path(catalogue: Catalogue, card: Card) -> Path:
    return checkpoint_path(card, catalogue.models_dir)


def _row(catalogue: Catalogue, card: Card, locks: _Locks) -> tuple[object, ...]:
    size = f"{card.width}x{card.height}" if card.width else ""
    is_locked = "yes" if card.id in locks else "no"
    modes = ", ".join(card.modes)
    return (
        card.id,
        card.family,
        size,
        modes,
        card.sampler,
        card.steps or "",
        _here(catalogue, card),
        is_locked,
        card.title,
    )


def _here(catalogue: Catalogue, card: Card) -> str:
    if _path(catalogue, card).exists():
        return "yes"
    if card.builder == "random":
        return "built on first use"
    return "can be pulled" if card.sources else "no"


def _text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(f"{found['rows']} of {found['site']} ({found['device']})" for found in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
