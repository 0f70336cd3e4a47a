"""Lance datasets by the command line: exported, deleted with the batch, and refused without the extra."""

from pathlib import Path

import lance
import pytest
from sqlalchemy import Engine

from jobs.storage.open import S3Options, open_store
from tests.console.conftest import Typed
from tests.factories import make_batch
from tests.ownership import render


@pytest.fixture
def output(typed: Typed, engine: Engine, tmp_path: Path) -> Path:
    """Where the batch `foxes` lies, which has three images."""
    batch = make_batch(engine, 3, name="foxes", output=str(tmp_path / "out"))
    render(engine, open_store(str(tmp_path / "out"), S3Options()), batch)
    return tmp_path / "out"


def test_it_goes_with_the_files_of_its_batch(typed: Typed, output: Path) -> None:
    for _ in range(2):
        ended = typed("export", "foxes", "--format", "lance", "--columns", "ordinal")
        assert (ended.code, "3 rows" in ended.out) == (0, True), ended.err
    rows = lance.dataset(output / "foxes" / "export-lance").to_table().to_pylist()
    assert sorted(row["image"] for row in rows) == [b"a picture0", b"a picture1", b"a picture2"]
    assert typed("delete", "foxes", "--files", "--yes").code == 0
    assert not list((output / "foxes").rglob("*"))


def test_it_moves_with_the_batch(typed: Typed, output: Path, tmp_path: Path) -> None:
    assert typed("export", "foxes", "--format", "lance").code == 0
    ended = typed("move", "foxes", str(tmp_path / "new"), "--yes")
    assert ended.code == 0, ended.err
    assert lance.dataset(tmp_path / "new" / "foxes" / "export-lance").count_rows() == 3
    assert not list((output / "foxes").rglob("*"))


@pytest.mark.usefixtures("output")
def test_without_the_extra_one_line_says_so(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.optional_packages._is_there", lambda name: name != "lance")
    ended = typed("export", "foxes", "--format", "lance")
    assert ended.code == 2
    assert "the export format lance needs Lance: pip install 'nightmill[lance]'" in ended.err
