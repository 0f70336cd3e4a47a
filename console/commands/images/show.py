"""`nightmill show`: everything that is known of one image."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from console.command_options import Json
from console.provenance_lookup.resolve_image_argument import chosen_image, require_installation
from console.session import session
from console.terminal.output import print_facts, print_json
from jobs.settings import load_settings

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="number of the image row, or a picture: a file or s3:// URI")
]
Keys = Annotated[
    Path | None, typer.Option("--keys", metavar="FILE", help="earlier keys of marks, a NUMBER:SECRET a line")
]


def show(image: Image, keys: Keys = None, as_json: Json = False) -> None:
    """The row of an image: prompt, model, seed, verdict, marks, versions, times and where its file is."""
    require_installation(settings := load_settings())
    with session(settings) as open_session:
        record = chosen_image(open_session, image, keys)
    if as_json:
        print_json(record)
    else:
        print_facts({name: _text(value) for name, value in _facts(record)})


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a row says, with the fields of JSON objects one by one, as in `versions.torch`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{field}", each) for field, each in value.items())
        elif value is not None:
            yield name, value


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return " ".join(text.split())
