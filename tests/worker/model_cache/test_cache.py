"""Which models a worker keeps, and how many images it generates at once."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import BatchId, Lane, LaneId
from jobs.policy.batch_policy import BatchPolicy
from jobs.settings import Settings, load_settings
from jobs.states import Scoring, WatermarkPolicy
from models.errors import OutOfMemoryError
from models.runtime.batch_size_profile import Capacity, Profile
from models.runtime.compile_options import CompileOptions
from models.runtime.device import Device
from tests.worker.contexts import images_of, render, worker_context_for
from worker.lanes.worker_context import WorkerContext
from worker.model_cache import batch_size, cache
from worker.model_cache.cache import ModelCache

POLICY = BatchPolicy(watermark=WatermarkPolicy.OFF, clip_score=Scoring.OFF)
LANE = Lane(LaneId(1), BatchId(1), "b", "b", "out", "tiny-random", "text2image", "", 64, 64, 0, POLICY)


def lane_with(**policy: Any) -> Lane:
    return replace(LANE, policy=POLICY.model_copy(update=policy))


@pytest.fixture
def found(shared_models: Path, tmp_path: Path) -> Settings:
    """Settings under which rows are found out, with models of their own."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in shared_models.iterdir():
        if path.is_dir():
            (folder / path.name).symlink_to(path)
    return load_settings(models_dir=folder, model_cache_size=2, data_dir=tmp_path)


def test_the_last_models_are_kept_and_share_what_they_can(found: Settings) -> None:
    model_cache = ModelCache(found, 0)
    plain, upscaled = LANE, replace(LANE, upscale=4)
    first = model_cache.lane_models(plain)
    assert model_cache.lane_models(plain) is first
    second = model_cache.lane_models(upscaled)
    assert second.upscaler is not None
    assert (second.diffusion, second.safety) == (first.diffusion, first.safety)
    scored = model_cache.lane_models(lane_with(clip_score="auto"))
    assert scored.diffusion is first.diffusion
    assert model_cache.lane_models(upscaled) is second, "the one that was used before is gone"
    assert model_cache.lane_models(plain) is not first


def test_a_lane_with_weights_of_its_own_shares_no_unet_with_another(found: Settings) -> None:
    model_cache = ModelCache(found.model_copy(update={"model_cache_size": 4}), 0)
    silent, held = model_cache.lane_models(LANE), model_cache.lane_models(lane_with(weights="fp8"))
    assert model_cache.lane_models(lane_with(weights="full")) is silent, "that is what the settings say"
    assert held.diffusion is not silent.diffusion
    assert held.safety is silent.safety
    assert [str(lane_models.site(LANE, "generate")) for lane_models in (silent, held)] == [
        "tiny-random 64x64 float32 full",
        "tiny-random 64x64 float32 fp8",
    ]
    enlarging = replace(LANE, upscale=4)
    one, other = (
        model_cache.lane_models(enlarging),
        model_cache.lane_models(replace(lane_with(weights="fp8"), upscale=4)),
    )
    assert (one.diffusion, other.diffusion) == (silent.diffusion, held.diffusion)
    assert one.upscaler is not other.upscaler
    assert [lane_models.notes() for lane_models in (silent, held)] == [{}, {"weights": "fp8"}]


@pytest.mark.parametrize(
    ("word", "jobs", "is_compiled"),
    [("auto", 511, False), ("auto", 512, True), ("on", 1, True), ("auto", None, True)],
)
def test_what_is_compiled_has_images_enough(
    found: Settings, monkeypatch: pytest.MonkeyPatch, word: str, jobs: int | None, is_compiled: bool
) -> None:
    """As on a GPU, where `auto` compiles; another lane's number of jobs says nothing."""
    fast = CompileOptions(compiled=True, vae_compiled=True)
    monkeypatch.setattr(CompileOptions, "choose", lambda *_: fast)
    model_cache = ModelCache(found.model_copy(update={"compile": word, "batch_size": 2}), 0)
    model_cache.prepare(LANE if jobs else replace(LANE, id=LaneId(2)), jobs or 1)
    assert model_cache.compile_options(LANE) == (fast if is_compiled else CompileOptions())
    notes = model_cache.lane_models(LANE).notes(model_cache.compile_options(LANE))
    assert notes == ({"unet": "compiled", "vae": "compiled"} if is_compiled else {})


def test_a_small_decoder_is_loaded_for_the_lanes_that_ask_and_the_rest_is_shared(found: Settings) -> None:
    model_cache = ModelCache(found, 0)
    full, tiny = model_cache.lane_models(LANE), model_cache.lane_models(lane_with(decoder="tiny"))
    assert (full.decoder, tiny.diffusion) == (None, full.diffusion)
    assert tiny.decoder is not None
    assert tiny.notes() == {"decoder": "tiny", "decoder_digest": tiny.decoder.checkpoint.digest}
    held = model_cache.lane_models(lane_with(decoder="tiny", weights="fp8"))
    assert held.decoder is tiny.decoder


def test_what_does_not_fit_makes_the_oldest_go(found: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    model_cache = ModelCache(found, 0)
    other = replace(LANE, upscale=4)
    model_cache.lane_models(LANE)
    load, refused = model_cache._load, []

    def load_if_alone(lane: Lane) -> object:
        if list(model_cache._cached):
            refused.append(lane)
            raise OutOfMemoryError("no memory left")
        return load(lane)

    monkeypatch.setattr(model_cache, "_load", load_if_alone)
    model_cache.lane_models(other)
    assert refused == [other]
    assert len(list(model_cache._cached)) == 1
    monkeypatch.setattr(model_cache, "_has_room", lambda _: False)
    model_cache.lane_models(LANE)
    assert refused == [other], "it was known before that it wouldn't fit"
    assert len(list(model_cache._cached)) == 1


def test_when_memory_runs_out_other_models_go_first(found: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "is_mostly_ours", lambda _: True)
    model_cache = ModelCache(found, 0)
    model_cache.lane_models(replace(LANE, upscale=4))
    model_cache.lane_models(LANE)
    assert model_cache.rows(LANE) == 4
    assert model_cache.lower_rows(LANE)
    assert (len(list(model_cache._cached)), model_cache.rows(LANE)) == (1, 4)
    assert model_cache.lower_rows(LANE)
    assert model_cache.rows(LANE) == 2
    assert ModelCache(found, 0).rows(LANE) == 4, "it may pass"
    assert model_cache.lower_rows(LANE)
    assert ModelCache(found, 0).rows(LANE) == 1, "the next worker needn't run out of memory"
    assert not model_cache.lower_rows(LANE)


def test_what_the_settings_fix_is_lowered_for_this_worker_only(found: Settings) -> None:
    fixed = found.model_copy(update={"batch_size": 2})
    model_cache = ModelCache(fixed, 0)
    assert model_cache.lower_rows(LANE)
    assert model_cache.rows(LANE) == 1
    assert ModelCache(fixed, 0).rows(LANE) == 2
    model_cache.prepare(LANE, 10_000)
    assert Profile(found.models_path).all() == {}


def test_small_lanes_leave_no_rows_empty(found: Settings) -> None:
    model_cache = ModelCache(found, 0)
    site = model_cache.lane_models(LANE).site(LANE, "generate")
    Profile(found.models_path).put(site, Capacity(32, {}, "now"))
    assert model_cache.rows(LANE) == 32
    for jobs, rows in ((1, 4), (5, 8), (8, 8), (9, 16), (200, 32)):
        model_cache.prepare(LANE, jobs)
        assert model_cache.rows(LANE) == rows


@pytest.fixture
def context(found: Settings, settings: Settings, engine: Engine) -> Iterator[WorkerContext]:
    own = settings.model_copy(update={"models_dir": found.models_dir, "batch_size": None})
    with worker_context_for(own, engine, ModelCache(own, 0)) as context:
        yield context


def test_a_large_lane_finds_out_and_the_next_one_knows(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "WORTH_TRYING", 9)
    monkeypatch.setattr(batch_size, "find", partial(batch_size.find, most=8))
    fox = {"prompt": "a fox", "steps": 1, "guidance_scale": 1}
    profile = Profile(context.settings.models_path)
    small = render(context, tmp_path, [fox | {"num_images": 8}])
    assert {row["batch_rows"] for row in images_of(context.engine, small)} == {4}
    assert profile.all() == {}
    large = render(context, tmp_path, [fox | {"num_images": 9}])
    ((site, found),) = next(iter(profile.all().values())).items()
    assert site == "tiny-random 64x64 float32 full"
    assert set(found.tried) <= {1, 2, 4, 8}
    assert {row["batch_rows"] for row in images_of(context.engine, large)} == {found.rows}
