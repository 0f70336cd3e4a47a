"""`nightmill show`: everything that is known of one image."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from console.command_options import Json
from console.provenance_lookup.resolve_image_argument import chosen_image, require_installation
from console.session import session
from console.terminal.output import print_json, print_table
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
        print_table(
            ("column", "value"), [(name, _text(value)) for name, value in record.items() if value is not None]
        )


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
