"""`nightmill recipe`: print the rows that a recipe generates, before they are planned."""

import json
from itertools import islice
from typing import Annotated

import typer

from console.command_options import Map
from console.session import s3_options
from console.terminal.output import note, print_line
from jobs.errors import UsageError
from jobs.manifest import open_source, parse_renames
from jobs.manifest.raw_record import Broken
from jobs.manifest.records_of_file_or_recipe import read_records
from jobs.settings import load_settings
from jobs.storage.open import fetch_to_file


def recipe(
    file: Annotated[str, typer.Argument(help="path, - or s3://… of a .yaml recipe")],
    limit: Annotated[int | None, typer.Option(min=1, help="only the first rows")] = None,
    count: Annotated[
        bool, typer.Option("--count", help="print how many rows there are, nothing else")
    ] = False,
    map_: Map = None,
) -> None:
    """The rows that a recipe makes, as JSON lines, not yet checked against a model."""
    renames = parse_renames(map_ or ())
    settings = load_settings()
    options = s3_options(settings)
    with open_source(
        file,
        format="recipe" if file == "-" else None,
        fetch=lambda uri, file: fetch_to_file(uri, file, options),
        prompt_header=renames.get("prompt", "prompt"),
        limit=settings.manifest_limit,
        roots=settings.image_roots,
    ) as manifest:
        if manifest.recipe is None:
            raise UsageError(f"{manifest.label} is no recipe: its name has to end in .yaml or .yml")
        if count:
            print_line(str(manifest.recipe.rows))
            return
        broken = 0
        for record in islice(read_records(manifest, renames), limit):
            if isinstance(record, Broken):
                broken += 1
                note(f"{manifest.label}:{record.line}: {record.reason}")
            else:
                print_line(json.dumps(record.values, ensure_ascii=False))
    if broken:
        raise typer.Exit(1)
