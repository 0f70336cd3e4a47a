"""`export --copy-images` as one types it: several batches as one dataset, with their images."""

from pathlib import Path

from sqlalchemy import Engine

from tests.console.conftest import Typed
from tests.scheduler.export.datasets import with_pictures


def test_images_are_copied_and_summed_up(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    for name in ("a", "b"):
        with_pictures(engine, tmp_path / "output", 2, name=name, sidecars=[1] if name == "a" else [])
    given = "export", "a", "b", "--name", "both", "--to", "set", "--copy-images"
    ended = typed(*given)
    assert ended.code == 0, ended.err
    assert [line.split("\t")[1] for line in ended.out.splitlines()] == ["2 rows", "2 rows"]
    assert "4 image files and 1 manifest beside them in" in ended.err
    assert "/_images" in "".join(ended.err.split())
    done = typed(*given, "--json").json
    assert len(list((tmp_path / "set/_images").glob("*/*.png"))) == 4
    shown = typed("exports", "show", str(done["export"])).out
    assert "part-00001.parquet, 2 image files" in shown
    assert typed("exports", "show", str(done["export"]), "--json").json["options"]["copy_images"] is True
    refused = typed("export", "a", "--copy-images")
    assert (refused.code, "say --to FOLDER" in " ".join(refused.err.split())) == (2, True)
