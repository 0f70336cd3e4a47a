"""Which models a worker keeps, and how many images it draws at once."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.job import BatchId, Lane, LaneId
from jobs.settings import Settings, load_settings
from models.errors import OutOfMemoryError
from models.runtime.batch_size_profile import Capacity, Profile
from models.runtime.compile_options import Speedup
from models.runtime.device import Device
from tests.worker.desk import desk_for, images_of, render
from worker.lanes.session import Desk
from worker.model_cache import batch_size as rows_of
from worker.model_cache import cache as studios
from worker.model_cache.cache import Studio

LANE = Lane(
    LaneId(1), BatchId(1), "b", "out", "tiny-random", "text2image", "", 64, 64, 0, "block", "off", "png", 95,
    True, "off", 1, None, "full",
)  # fmt: skip


@pytest.fixture
def found(shared_models: Path, tmp_path: Path) -> Settings:
    """Settings under which rows are found out, with models of their own."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in shared_models.iterdir():
        if path.is_dir():
            (folder / path.name).symlink_to(path)
    return load_settings(models_dir=folder, kept_models=2, data_dir=tmp_path)


def test_the_last_models_are_kept_and_share_what_they_can(found: Settings) -> None:
    studio = Studio(found, 0)
    plain, upscaled = LANE, replace(LANE, upscale=4)
    first = studio.kit(plain)
    assert studio.kit(plain) is first
    second = studio.kit(upscaled)
    assert second.upscaler is not None
    assert (second.diffusion, second.safety) == (first.diffusion, first.safety)
    scored = studio.kit(replace(LANE, clip_score="auto"))
    assert scored.diffusion is first.diffusion
    assert studio.kit(upscaled) is second, "the one that was used before is gone"
    assert studio.kit(plain) is not first


def test_a_lane_with_weights_of_its_own_shares_no_unet_with_another(found: Settings) -> None:
    studio = Studio(found.model_copy(update={"kept_models": 4}), 0)
    silent, held = studio.kit(LANE), studio.kit(replace(LANE, weights="fp8"))
    assert studio.kit(replace(LANE, weights="full")) is silent, "that is what the settings say"
    assert held.diffusion is not silent.diffusion
    assert held.safety is silent.safety
    assert [str(kit.site(LANE, "draw")) for kit in (silent, held)] == [
        "tiny-random 64x64 float32 full",
        "tiny-random 64x64 float32 fp8",
    ]
    enlarging = replace(LANE, upscale=4)
    one, other = studio.kit(enlarging), studio.kit(replace(enlarging, weights="fp8"))
    assert (one.diffusion, other.diffusion) == (silent.diffusion, held.diffusion)
    assert one.upscaler is not other.upscaler
    assert [kit.notes() for kit in (silent, held)] == [{}, {"weights": "fp8"}]


@pytest.mark.parametrize(
    ("word", "jobs", "is_compiled"),
    [("auto", 511, False), ("auto", 512, True), ("on", 1, True), ("auto", None, True)],
)
def test_what_is_compiled_has_images_enough(
    found: Settings, monkeypatch: pytest.MonkeyPatch, word: str, jobs: int | None, is_compiled: bool
) -> None:
    """As on a GPU, where `auto` compiles; another lane's number of jobs says nothing."""
    fast = Speedup(compiled=True, vae_compiled=True)
    monkeypatch.setattr(Speedup, "choose", lambda *_: fast)
    studio = Studio(found.model_copy(update={"compile": word, "gpu_rows": 2}), 0)
    studio.prepare(LANE if jobs else replace(LANE, id=LaneId(2)), jobs or 1)
    assert studio.speedup(LANE) == (fast if is_compiled else Speedup())
    notes = studio.kit(LANE).notes(studio.speedup(LANE))
    assert notes == ({"unet": "compiled", "vae": "compiled"} if is_compiled else {})


def test_a_small_decoder_is_loaded_for_the_lanes_that_ask_and_the_rest_is_shared(found: Settings) -> None:
    studio = Studio(found, 0)
    full, tiny = studio.kit(LANE), studio.kit(replace(LANE, decoder="tiny"))
    assert (full.decoder, tiny.diffusion) == (None, full.diffusion)
    assert tiny.decoder is not None
    assert tiny.notes() == {"decoder": "tiny", "decoder_digest": tiny.decoder.checkpoint.digest}
    held = studio.kit(replace(LANE, decoder="tiny", weights="fp8"))
    assert held.decoder is tiny.decoder


def test_what_does_not_fit_makes_the_oldest_go(found: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(found, 0)
    other = replace(LANE, upscale=4)
    studio.kit(LANE)
    load, refused = studio._load, []

    def load_if_alone(lane: Lane) -> object:
        if list(studio._kits):
            refused.append(lane)
            raise OutOfMemoryError("no memory left")
        return load(lane)

    monkeypatch.setattr(studio, "_load", load_if_alone)
    studio.kit(other)
    assert refused == [other]
    assert len(list(studio._kits)) == 1
    monkeypatch.setattr(studio, "_has_room", lambda _: False)
    studio.kit(LANE)
    assert refused == [other], "it was known before that it wouldn't fit"
    assert len(list(studio._kits)) == 1


def test_when_memory_runs_out_other_models_go_first(found: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "is_mostly_ours", lambda _: True)
    studio = Studio(found, 0)
    studio.kit(replace(LANE, upscale=4))
    studio.kit(LANE)
    assert studio.rows(LANE) == 4
    assert studio.lower_rows(LANE)
    assert (len(list(studio._kits)), studio.rows(LANE)) == (1, 4)
    assert studio.lower_rows(LANE)
    assert studio.rows(LANE) == 2
    assert Studio(found, 0).rows(LANE) == 4, "it may pass"
    assert studio.lower_rows(LANE)
    assert Studio(found, 0).rows(LANE) == 1, "the next worker needn't run out of memory"
    assert not studio.lower_rows(LANE)


def test_what_the_settings_fix_is_lowered_for_this_worker_only(found: Settings) -> None:
    fixed = found.model_copy(update={"gpu_rows": 2})
    studio = Studio(fixed, 0)
    assert studio.lower_rows(LANE)
    assert studio.rows(LANE) == 1
    assert Studio(fixed, 0).rows(LANE) == 2
    studio.prepare(LANE, 10_000)
    assert Profile(found.models_path).all() == {}


def test_small_lanes_leave_no_rows_empty(found: Settings) -> None:
    studio = Studio(found, 0)
    site = studio.kit(LANE).site(LANE, "draw")
    Profile(found.models_path).put(site, Capacity(32, {}, "now"))
    assert studio.rows(LANE) == 32
    for jobs, rows in ((1, 4), (5, 8), (8, 8), (9, 16), (200, 32)):
        studio.prepare(LANE, jobs)
        assert studio.rows(LANE) == rows


@pytest.fixture
def desk(found: Settings, settings: Settings, engine: Engine) -> Iterator[Desk]:
    own = settings.model_copy(update={"models_dir": found.models_dir, "gpu_rows": None})
    with desk_for(own, engine, Studio(own, 0)) as desk:
        yield desk


def test_a_large_lane_finds_out_and_the_next_one_knows(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studios, "WORTH_TRYING", 9)
    monkeypatch.setattr(rows_of, "find", partial(rows_of.find, most=8))
    fox = {"prompt": "a fox", "steps": 1, "guidance_scale": 1}
    profile = Profile(desk.settings.models_path)
    small = render(desk, tmp_path, [fox | {"num_images": 8}])
    assert {row["batch_rows"] for row in images_of(desk.engine, small)} == {4}
    assert profile.all() == {}
    large = render(desk, tmp_path, [fox | {"num_images": 9}])
    ((site, found),) = next(iter(profile.all().values())).items()
    assert site == "tiny-random 64x64 float32 full"
    assert set(found.tried) <= {1, 2, 4, 8}
    assert {row["batch_rows"] for row in images_of(desk.engine, large)} == {found.rows}
