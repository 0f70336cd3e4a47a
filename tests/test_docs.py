"""The references name every column and every card, and none that isn't there."""

import re
from pathlib import Path

from console.lazy_commands import MODULES
from jobs.images.insert_and_public_columns import public_columns
from jobs.manifest import KNOWN_COLUMNS
from jobs.states import BatchState
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.catalogue.samplers import SAMPLERS
from scheduler.export.image_arrow_schema import SCHEMA
from tests import configuration_page, image_rows_page, lifecycle_page, metrics_page
from tests.paths import ROOT

DOCS = ROOT / "docs"


def first_cells(page: str) -> set[str]:
    rows = re.findall(r"^\| (`[^|]+`) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)}


def test_the_manifest_page_names_every_column() -> None:
    assert first_cells("manifest.md") == set(KNOWN_COLUMNS)


def test_the_page_of_image_rows_is_as_it_is_written() -> None:
    assert image_rows_page.PAGE.read_text(encoding="utf-8") == image_rows_page.page()
    assert first_cells("reference/image-rows.md") == set(SCHEMA.names)
    assert [column.name for column in public_columns() if not column.doc] == []


def test_the_manifest_page_names_every_sampler() -> None:
    page = (DOCS / "manifest.md").read_text(encoding="utf-8")
    assert all(f"`{sampler}`" in page for sampler in SAMPLERS)


def test_the_models_page_names_every_card_and_what_it_says(tmp_path: Path) -> None:
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in map(_cells, page.splitlines()) if len(row) == 6}
    for card in Catalogue.load(tmp_path).cards():
        about, size, modes, sampler, precision = rows[f"`{card.id}`"]
        assert about
        if card.builder != "package":
            assert [size, modes, sampler] == [
                str(card.width or ""),
                ", ".join(card.modes),
                card.sampler,
            ], card.id
            assert precision == card.precision, card.id


def test_the_models_page_names_every_field_of_a_card_and_every_dead_repository(tmp_path: Path) -> None:
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    assert [name for name in Card.model_fields if f"`{name}`" not in page] == []
    cards = Catalogue.load(tmp_path).cards()
    unpinned = [card.id for card in cards if any("@" not in source for source in card.sources)]
    assert unpinned == ["nsfw-image-detection", "sd-v1-1", "sd-v1-2", "sd-v1-3"]
    for dead in (dead for card in cards for dead in card.withdrawn):
        owner, name = dead.split("/")
        assert f"`{dead}`" in page or f"`{name.removeprefix('stable-diffusion')}`" in page, owner


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| `") else []


def test_the_guarantees_page_names_every_experiment() -> None:
    page = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    chaos = DOCS.parent / "tests" / "chaos"
    assert [path.name for path in chaos.glob("test_*.py") if f"`{path.name}`" not in page] == []
    named = re.findall(r"`((?:\.\./[a-z_/]+/)?test_[a-z_]+\.py)`", page)
    assert [path for path in named if not (chaos / path).exists()] == []


def test_pages_name_no_file_that_is_not_there() -> None:
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = {(page.name, path) for page in pages for path in _paths(page.read_text(encoding="utf-8"))}
    assert {(page, path) for page, path in named if not (ROOT / path).exists()} == set()


def test_the_architecture_page_names_every_package() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = {
        f"{folder.parent.relative_to(ROOT)}/"
        for room in ("jobs", "models", "worker", "scheduler", "console")
        for folder in (ROOT / room).glob("*/__init__.py")
    }
    assert {package for package in packages if f"`{package}`" not in page} == set()


def test_the_index_names_every_decision() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (DOCS / "decisions").glob("0*.md") if f"({path.name})" not in index] == []


def _paths(text: str) -> list[str]:
    """Paths of the repository in backticks."""
    return re.findall(
        r"`((?:jobs|models|worker|scheduler|console|bench|tests|migrations|docs)/[\w./-]+)`", text
    )


def test_the_configuration_page_is_as_it_is_written() -> None:
    assert configuration_page.PAGE.read_text(encoding="utf-8") == configuration_page.page()


def test_the_metrics_page_is_as_it_is_written() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.page()


def test_the_commands_page_names_every_command() -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in MODULES if f"`nightmill {name}" not in page] == []


def test_the_lifecycle_page_names_every_state() -> None:
    page = (DOCS / "lifecycle.md").read_text(encoding="utf-8")
    assert lifecycle_page.in_page(page) == lifecycle_page.table()
    assert [state for state in BatchState if f"| `{state}` |" not in page] == []


def test_pages_link_to_nothing_that_is_not_there() -> None:
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name
