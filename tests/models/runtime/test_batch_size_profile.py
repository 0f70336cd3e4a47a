"""How many images are generated at once: the search, and the file that it is kept in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import ModelError, OutOfMemoryError
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.runtime.batch_size_profile import Capacity, Profile, Site, find

SITE = Site("a GPU", "sd", 512, 512, "bfloat16")


def speeds(*values: float, room: int = 64) -> tuple[list[int], object]:
    """The n-th value is the speed of 2**n images; more than `room` don't fit."""
    asked: list[int] = []

    def speed(rows: int) -> float:
        asked.append(rows)
        if rows > room:
            raise OutOfMemoryError(f"no room for {rows}")
        return values[rows.bit_length() - 1]

    return asked, speed


@pytest.mark.parametrize(
    ("values", "room", "rows", "asked"),
    [
        ((10, 20, 30, 40, 50, 60, 70), 64, 64, 7),
        ((10, 20, 30, 31, 32), 64, 4, 5),
        ((10, 20, 30, 40, 50), 8, 8, 5),
        ((10, 10, 10), 64, 1, 3),
        ((10, 8, 20, 12, 12), 64, 4, 5),
        ((10,), 1, 1, 2),
    ],
)
def test_the_smallest_number_that_is_about_as_fast_as_any(
    values: tuple[float, ...], room: int, rows: int, asked: int
) -> None:
    tried, speed = speeds(*values, *values[-1:] * 4, room=room)
    found = find(speed)  # type: ignore[arg-type]
    assert found.rows == rows
    assert tried == [1 << n for n in range(asked)]
    assert list(found.tried) == [n for n in tried if n <= room]


def test_no_more_than_asked_for_and_not_where_nothing_fits() -> None:
    tried, speed = speeds(10, 20, 30, 40)
    assert find(speed, most=3).rows == 2  # type: ignore[arg-type]
    assert tried == [1, 2]
    with pytest.raises(OutOfMemoryError, match="no room for 1"):
        find(speeds(10, room=0)[1])  # type: ignore[arg-type]


def test_the_file_keeps_what_was_found(tmp_path: Path) -> None:
    profile, other = Profile(tmp_path / "models"), replace(SITE, width=768)
    assert profile.get(SITE) is None
    assert profile.all() == {}
    found = Capacity(8, {1: 1.5, 8: 9.25}, "2026-11-22T10:00:00+00:00")
    profile.put(SITE, found)
    profile.put(other, replace(found, rows=2))
    assert Profile(tmp_path / "models").get(SITE) == found
    profile.lower(SITE, 4)
    lowered = profile.get(SITE)
    assert lowered is not None
    assert (lowered.rows, lowered.is_lowered, lowered.tried) == (4, True, found.tried)
    assert list(profile.all()) == ["a GPU"]
    assert list(profile.all()["a GPU"]) == ["sd 512x512 bfloat16 full", "sd 768x512 bfloat16 full"]
    assert profile.forget("s") == 0
    assert profile.forget("sd") == 2
    assert profile.get(other) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a GPU": 3}', '{"a GPU": {"sd 512x512 bfloat16 full": {"rows": 0}}}']
)
def test_a_damaged_file_tells_nothing_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "capacity.json").write_text(text, encoding="utf-8")
    profile = Profile(tmp_path)
    assert profile.get(SITE) is None
    assert profile.all() == {}
    profile.put(SITE, Capacity(2, {}, "now"))
    assert profile.get(SITE) == Capacity(2, {}, "now")
    json.loads((tmp_path / "capacity.json").read_text(encoding="utf-8"))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder", encoding="utf-8")
    with pytest.raises(ModelError, match="can't write to the models folder"):
        Profile(tmp_path / "models").put(SITE, Capacity(2, {}, "now"))


def test_models_are_tried_and_draw_as_before(
    tiny: StableDiffusion, upscaler: Upscaler, image: object
) -> None:
    request = image()  # type: ignore[operator]
    before = tiny.render([request], rows=2)[0].pixels
    assert tiny.measure_throughput(64, 64, 2) > 0
    assert (tiny.render([request], rows=2)[0].pixels == before).all()
    assert upscaler.measure_throughput(16, 16, 1) > 0
