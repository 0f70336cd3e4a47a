"""`nightmill verify`: which job a picture is of, by its mark."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import Engine

from bench.image_files import grainy
from jobs.db.installation_id import this_installation
from jobs.queue import transitions
from jobs.settings import Settings
from models.watermark.blocks import Pixels
from models.watermark.tiled.embed import embed
from models.watermark.tiled.payload import Payload, installation_number
from tests.console.conftest import Typed
from tests.factories import change, image, lanes_of, make_batch, take

SECRET = "a secret of the test"


@pytest.fixture(scope="module")
def plain() -> Pixels:
    return grainy(512)


@pytest.fixture
def job(engine: Engine) -> int:
    """The job of an image that is there."""
    batch = make_batch(engine, [{"prompt": "a red fox"}], name="foxes")
    (lane,) = lanes_of(engine, batch)
    (found,) = take(engine, lane)
    transitions.complete(engine, [image(found)])
    return found.id


@pytest.fixture
def ours(engine: Engine) -> int:
    return installation_number(this_installation(engine).id)


def save(path: Path, pixels: Pixels, payload: Payload, key: bytes = b"nightmill", **options: int) -> str:
    Image.fromarray(embed(pixels, payload.bits, key)).save(path, **options)
    return str(path)


def test_a_picture_leads_to_its_row(typed: Typed, plain: Pixels, tmp_path: Path, job: int, ours: int) -> None:
    payload = Payload(0, ours, job)
    path = save(tmp_path / "found.jpg", plain, payload, quality=60)
    told = typed("verify", path)
    assert told.code == 0
    assert [word in told.out for word in ("ours", "foxes", "a red fox")] == [True] * 3
    assert told.err.endswith("1 ours\n")
    (found,) = typed("verify", path, "--json").json
    assert (found["verdict"], found["mark"]["payload"], found["mark"]["was_searched_for"]) == (
        "ours",
        payload.hex,
        False,
    )
    assert (found["row"]["name"], found["row"]["ordinal"], found["row"]["prompt"]) == (
        "foxes",
        0,
        "a red fox",
    )


def test_a_part_of_a_picture_is_searched_for_unless_it_is_to_be_quick(
    typed: Typed, plain: Pixels, tmp_path: Path, job: int, ours: int
) -> None:
    marked = embed(plain, Payload(0, ours, job).bits, b"nightmill")
    Image.fromarray(marked[40:-30, 25:-60]).save(tmp_path / "part.png")
    (found,) = typed("verify", str(tmp_path / "part.png"), "--json").json
    assert (found["verdict"], found["mark"]["was_searched_for"], found["row"]["name"]) == (
        "ours",
        True,
        "foxes",
    )
    assert typed("verify", str(tmp_path / "part.png"), "--quick").code == 1


def test_what_cannot_be_told_and_what_is_not_ours(
    typed: Typed, engine: Engine, plain: Pixels, tmp_path: Path, job: int, ours: int
) -> None:
    save(tmp_path / "a-other.png", plain, Payload(0, ours ^ 1, job))
    Image.fromarray(plain).save(tmp_path / "b-none.png")
    (tmp_path / "linked.png").symlink_to(tmp_path / "b-none.png")
    (tmp_path / "notes.txt").write_text("no picture")
    told = typed("verify", str(tmp_path), "--quick", "--json")
    assert "2 files in folders not looked at" in told.err
    assert (told.code, [found["verdict"] for found in told.json]) == (
        1,
        ["of another installation", "no trace of ours"],
    )
    (tmp_path / "c-broken.png").write_bytes(b"\x89PNG and no more")
    told = typed("verify", str(tmp_path), "--quick")
    assert (told.code, "c-broken.png is no PNG, JPEG or WebP picture" in told.out) == (2, True)
    path = save(tmp_path / "d-ours.png", plain, Payload(0, ours, job))
    change(engine, "DELETE FROM images")
    told = typed("verify", path)
    assert (
        told.code,
        f"job {job}; its mark says so, and there is no such row, or it is gone" in told.out,
    ) == (
        2,
        True,
    )
    assert typed("verify", str(tmp_path / "empty"), "--quick").code == 2
    (tmp_path / "empty").mkdir()
    assert "no .png, .jpg" in typed("verify", str(tmp_path / "empty")).err


def test_a_folder_that_can_not_be_read_is_told(
    typed: Typed, plain: Pixels, tmp_path: Path, job: int, ours: int
) -> None:
    path = save(tmp_path / "a.png", plain, Payload(0, ours, job))
    nested = os.open(tmp_path, os.O_RDONLY)
    for _ in range(17):  # until the path is longer than the system takes
        os.mkdir("d" * 250, dir_fd=nested)
        inside = os.open("d" * 250, os.O_RDONLY, dir_fd=nested)
        os.close(nested)
        nested = inside
    os.close(nested)
    told = typed("verify", str(tmp_path), "--quick", "--json")
    assert (told.code, [found["verdict"] for found in told.json]) == (2, ["ours", "unreadable"])
    assert "can't be read: File name too long" in told.json[1]["why"]
    told = typed("verify", path, "--quick", "--index", str(tmp_path))
    assert (told.code, "can't be read: File name too long" in told.err) == (2, True)


def test_keys_of_ones_own(settings: Settings, plain: Pixels, tmp_path: Path, job: int, ours: int) -> None:
    path = save(tmp_path / "own.png", plain, Payload(7, ours, job), SECRET.encode())
    own = Typed(settings.model_copy(update={"watermark_key": SecretStr(f"7:{SECRET}")}), tmp_path)
    other = Typed(settings, tmp_path)
    assert own("verify", path).code == 0
    assert other("verify", path, "--quick").code == 1
    (tmp_path / "old").write_text(f"# of 2025\n9:another secret of it\n7:{SECRET}\n")
    told = other("verify", path, "--keys", str(tmp_path / "old"), "--json")
    assert told.code == 0, told.err
    assert told.json[0]["mark"]["key"] == 7
    (tmp_path / "old").write_text("7:another secret of it\n")
    assert "two keys with the number 7" in own("verify", path, "--keys", str(tmp_path / "old")).err
    (tmp_path / "old").write_text(f"{SECRET}\n")
    refused = other("verify", path, "--keys", str(tmp_path / "old"))
    assert (refused.code, "old, line 1: must be NUMBER:SECRET" in refused.err) == (2, True)
    assert SECRET not in refused.err


def test_a_copy_is_found_where_the_first_picture_is_gone(
    typed: Typed, engine: Engine, plain: Pixels, tmp_path: Path, job: int, ours: int
) -> None:
    payload = Payload(0, ours, job + 1_000)
    change(
        engine,
        "UPDATE images SET watermark = :mark, watermark_method = 'tiled', reused_from = 9",
        mark=payload.hex,
    )
    (found,) = typed("verify", save(tmp_path / "found.png", plain, payload), "--json").json
    assert (found["verdict"], found["row"]["name"], found["row"]["job"]) == ("ours", "foxes", job)
    assert found["why"] == "the row is of a copy: that of the job is gone"


def test_depths_and_transparency_are_seen_as_they_are_shown(
    typed: Typed, plain: Pixels, tmp_path: Path, job: int, ours: int
) -> None:
    marked = embed(plain, Payload(0, ours, job).bits, b"nightmill")
    grey = np.asarray(Image.fromarray(marked).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([marked, np.full(grey.shape, 255, np.uint8)])).save(tmp_path / "rgba.png")
    told = typed("verify", str(tmp_path), "--quick", "--json")
    assert [found["verdict"] for found in told.json] == ["ours", "ours"]


def test_without_a_database_nobody_knows_whose_it_is(
    settings: Settings, plain: Pixels, tmp_path: Path
) -> None:
    path = save(tmp_path / "found.png", plain, Payload(0, 1, 2))
    nowhere = settings.model_copy(update={"database_url": None, "data_dir": tmp_path / "none"})
    told = Typed(nowhere, tmp_path)("verify", path)
    assert (told.code, "installation 1, job 2; neither a database here nor" in told.out) == (
        2,
        True,
    )
