"""Recipes on the disk, and what they make."""

import textwrap
from pathlib import Path
from typing import Any

from jobs.manifest import Reject, Row, open_source
from jobs.manifest.raw_record import Broken, Record
from jobs.manifest.records_of_file_or_recipe import read_records
from tests.jobs.manifest.helpers import read


def write(folder: Path, text: str, **files: str) -> Path:
    """The recipe `r.yaml` with files beside it; an underscore in a name stands for the dot."""
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    path = folder / "r.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def records(path: Path) -> list[Record | Broken]:
    """All records, after a look at their number."""
    with open_source(str(path)) as manifest:
        made = list(read_records(manifest, {}))
        assert len(made) == manifest.rows
        return made


def values(path: Path) -> list[dict[str, Any]]:
    """The values of all records, none of which may be broken."""
    made = records(path)
    assert all(isinstance(record, Record) for record in made), made
    return [record.values for record in made if isinstance(record, Record)]


def prompts(path: Path) -> list[str]:
    """The prompts of all records."""
    return [str(row["prompt"]) for row in values(path)]


def rows(path: Path) -> list[Row]:
    """All rows, none of which may be rejected."""
    made = read(path)
    assert not [item for item in made if isinstance(item, Reject)], made
    return [item for item in made if isinstance(item, Row)]
