"""`nightmill reproduce` and `show`: an image rendered again by a worker process, and everything known of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine

from tests.console.conftest import Typed
from tests.factories import change, look


@pytest.fixture
def images(typed: Typed, engine: Engine, tmp_path: Path) -> list[int]:
    """The numbers of an image from a text, of one from a picture, and of a picture that is enlarged at its own size."""
    Image.fromarray(np.full((64, 64, 3), 120, np.uint8)).save(tmp_path / "from.png")
    Image.fromarray(np.full((66, 70, 3), 120, np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a red circle", "steps": 3}\n'
        f'{{"prompt": "a blue square", "steps": 4, "init_image": "{tmp_path}/from.png", "strength": 0.5}}\n'
        f'{{"prompt": "a", "model": "tiny-random-x4", "init_image": "{tmp_path}/small.png"}}\n'
    )
    made = typed("run", "a.jsonl", "--set", "model=tiny-random")
    assert made.code == 0, made.err
    return [row["id"] for row in look(engine, "SELECT id FROM images ORDER BY ordinal")]


def test_images_are_rendered_again_and_compared(
    typed: Typed, engine: Engine, images: list[int], tmp_path: Path
) -> None:
    for image in images[1:]:
        told = typed("reproduce", str(image), "--json")
        assert told.code == 0, told.err
        assert (told.json["image"], told.json["same_pixels"], told.json["made_otherwise"]) == (
            image,
            True,
            {},
        )
    assert [row["name"] for row in look(engine, "SELECT name FROM batches")] == ["a"], "it is deleted again"
    assert len(look(engine, "SELECT FROM images")) == len(images)

    other = 'seed = seed + 1, versions = versions || \'{"torch": "1.0"}\''
    change(engine, f"UPDATE images SET {other} WHERE id = :id", id=images[0])  # noqa: S608
    told = typed("reproduce", str(images[0]), "--keep")
    assert (told.code, "grey levels in" in told.out, "torch 1.0 now" in told.out) == (1, True, True)
    assert f"the picture is in batch reproduce-{images[0]}-" in told.err
    assert len(look(engine, "SELECT FROM batches")) == 2

    there = sorted((tmp_path / "output").rglob("*"))
    gone = str(tmp_path / "gone.png")
    change(engine, "UPDATE images SET init_image = :gone WHERE id = :id", gone=gone, id=images[1])
    told = typed("reproduce", str(images[1]))
    assert (told.code, "gone.png" in told.err) == (2, True), told.err
    assert "error: it can't be rendered again: init_image of its row: " in told.err
    assert ("row.jsonl" in told.err, "--strict" in told.err) == (False, False), told.err
    assert len(look(engine, "SELECT FROM batches")) == 2
    assert sorted((tmp_path / "output").rglob("*")) == there
