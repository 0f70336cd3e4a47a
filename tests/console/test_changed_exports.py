"""Files of an export that somebody changed: named, never overwritten unasked, written anew by `--replace`."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.console.conftest import Typed
from tests.scheduler.export.datasets import with_pictures
from tests.scheduler.export.test_hive_partitions import retract_row

GIVEN = "export", "foxes", "--format", "hf", "--to", "set"
MINE = "# My own card"


@pytest.fixture
def card(engine: Engine, typed: Typed, tmp_path: Path) -> Path:
    """The card of an export, which its user has edited."""
    with_pictures(engine, tmp_path / "output", 2, name="foxes")
    assert typed(*GIVEN).code == 0
    path = tmp_path / "set" / "README.md"
    assert "synthetic images" in path.read_text()
    path.write_text(MINE)
    return path


def words(text: str) -> str:
    return " ".join(text.split())


def test_what_needs_no_writing_is_left_and_told(typed: Typed, card: Path) -> None:
    ended = typed(*GIVEN)
    assert (ended.code, card.read_text()) == (0, MINE)
    assert "README.md had been changed, and was left so" in words(ended.err)


def test_it_is_named_and_nothing_is_written_without_a_word(engine: Engine, typed: Typed, card: Path) -> None:
    retract_row(engine, 1)
    before = {path: path.read_bytes() for path in card.parent.rglob("*") if path.is_file()}
    ended = typed(*GIVEN)
    assert ended.code == 2
    assert f"{card.parent}: README.md was changed since an export of foxes wrote it." in words(ended.err)
    assert "say --replace" in words(ended.err)
    assert {path: path.read_bytes() for path in card.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("is_outdated", [True, False])
def test_replace_writes_it_anew_and_says_so(
    engine: Engine, typed: Typed, card: Path, is_outdated: bool
) -> None:
    if is_outdated:
        retract_row(engine, 1)
    ended = typed(*GIVEN, "--replace")
    assert ended.code == 0, ended.err
    assert "README.md had been changed, and was written anew" in words(ended.err)
    assert f"{2 - is_outdated} synthetic images" in card.read_text()
    assert "had been changed" not in typed(*GIVEN).err


def test_another_format_names_it_too(typed: Typed, card: Path) -> None:
    other = "export", "foxes", "--format", "webdataset", "--to", "set"
    refused = typed(*other)
    assert (refused.code, "README.md was changed since" in words(refused.err)) == (2, True)
    assert card.read_text() == MINE
    ended = typed(*other, "--replace")
    assert ended.code == 0, ended.err
    assert "README.md had been changed, and was written anew" in words(ended.err)
    assert "synthetic images" in card.read_text()


def test_replace_replaces_no_file_of_others(typed: Typed, card: Path) -> None:
    notes = card.parent / "notes.txt"
    notes.write_text("mine")
    ended = typed(*GIVEN, "--replace")
    assert (ended.code, "notes.txt" in ended.err, card.read_text()) == (2, True, MINE)


def test_rows_that_were_changed_are_named_with_the_card(typed: Typed, card: Path) -> None:
    (rows,) = card.parent.glob("data/*.parquet")
    rows.write_bytes(b"mine")
    refused = typed(*GIVEN)
    named = f"data/{rows.name}, README.md were changed since"
    assert (refused.code, named in words(refused.err)) == (2, True), refused.err
    assert typed(*GIVEN, "--replace").code == 0
    assert rows.read_bytes()[:4] == b"PAR1"
