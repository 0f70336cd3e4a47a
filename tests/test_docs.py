"""The references name every column, and none that isn't there."""

import re
from pathlib import Path

from jobs.manifest import KNOWN_COLUMNS
from models.samplers import SAMPLERS
from scheduler.formats import SCHEMA

DOCS = Path(__file__).parent.parent / "docs"


def first_cells(page: str) -> set[str]:
    rows = re.findall(r"^\| (`[^|]+`) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)}


def test_the_manifest_page_names_every_column() -> None:
    assert first_cells("manifest.md") == set(KNOWN_COLUMNS)


def test_the_outputs_page_names_every_column() -> None:
    assert first_cells("outputs.md") == set(SCHEMA.names)


def test_the_manifest_page_names_every_sampler() -> None:
    page = (DOCS / "manifest.md").read_text(encoding="utf-8")
    assert all(f"`{sampler}`" in page for sampler in SAMPLERS)
