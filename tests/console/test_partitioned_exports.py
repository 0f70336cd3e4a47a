"""`export --partition-by` as one types it: beside the images, replaced and deleted, and refused before it begins."""

from pathlib import Path

import pyarrow.dataset as ds
import pytest
from sqlalchemy import Engine

from scheduler.export.rows import partition_columns
from tests.console.conftest import Typed
from tests.scheduler.export.datasets import with_pictures
from tests.scheduler.export.test_hive_partitions import names, rows_of


def test_beside_the_images_and_deleted_with_them(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    with_pictures(engine, tmp_path / "output", rows_of(["a/b", "owl"]), name="foxes")
    ended = typed("export", "foxes", "--partition-by", "meta.label")
    assert ended.code == 0, ended.err
    folder = tmp_path / "output" / "foxes"
    path = ds.dataset(folder / "export/label=owl/00000.parquet").to_table()["path"][0].as_py()
    assert (folder / "export" / path).is_file()
    assert typed("export", "foxes").code == 0  # replaced by one that isn't divided
    assert not [name for name in names(folder / "export") if "=" in name]
    assert typed("export", "foxes", "--partition-by", "meta.label").code == 0
    assert typed("delete", "foxes", "--files", "--yes").code == 0
    assert not (folder / "export").exists()


def test_too_many_partitions_are_counted_before_anything_is_written(
    engine: Engine, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_pictures(engine, tmp_path / "output", rows_of(["a", "b", "c", "c"]), name="foxes")
    monkeypatch.setattr(partition_columns, "MOST", 2)
    ended = typed("export", "foxes", "--partition-by", "meta.label", "--to", "set")
    assert (ended.code, "would be in 3 partitions, and at most 2" in " ".join(ended.err.split())) == (2, True)
    assert not (tmp_path / "set").exists()
    chosen = "--where", "meta.label != 'b'"
    assert typed("export", "foxes", "--partition-by", "meta.label", "--to", "set", *chosen).code == 0
    assert len(names(tmp_path / "set")) == 2
