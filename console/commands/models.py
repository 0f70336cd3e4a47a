"""`nightmill models`: the catalogue."""

from dataclasses import asdict
from typing import Annotated

import typer

from console.orders import Json
from console.show import print_facts, print_json, print_table
from jobs.settings import load_settings
from models.catalogue import Card, Catalogue

models = typer.Typer(help="The models that a manifest can name.", invoke_without_command=True)


@models.callback()
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """The models that a manifest can name; `show ID` prints a card."""
    if context.invoked_subcommand:
        return
    catalogue = _catalogue()
    cards = catalogue.cards()
    if as_json:
        print_json([_fields(catalogue, card) for card in cards])
        return
    columns = ("id", "family", "size", "sampler", "steps", "here", "title")
    print_table(columns, [_row(catalogue, card) for card in cards])


@models.command()
def show(model: Annotated[str, typer.Argument(help="id or alias")], as_json: Json = False) -> None:
    """One model's card: what it is, what it takes, what it can't do."""
    catalogue = _catalogue()
    fields = _fields(catalogue, catalogue.get(model))
    if as_json:
        print_json(fields)
    else:
        print_facts(
            {
                name.replace("_", " "): _text(value)
                for name, value in fields.items()
                if value not in ("", 0, [])
            }
        )


def _catalogue() -> Catalogue:
    return Catalogue.load(load_settings().models_path)


def _fields(catalogue: Catalogue, card: Card) -> dict[str, object]:
    return asdict(card) | {
        "path": str(catalogue.models_dir / card.source),
        "is_here": _is_here(catalogue, card),
    }


def _is_here(catalogue: Catalogue, card: Card) -> bool:
    return (catalogue.models_dir / card.source).is_dir()


def _row(catalogue: Catalogue, card: Card) -> tuple[object, ...]:
    where = "yes" if _is_here(catalogue, card) else ("built on first use" if card.builder else "no")
    size = f"{card.width}x{card.height}" if card.width else ""
    return card.id, card.family, size, card.sampler, card.steps or "", where, card.title


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
