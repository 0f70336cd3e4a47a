"""The batch size after memory ran out: smaller for a while, and for all workers only if it runs out again."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.settings import Settings, load_settings
from models.runtime.batch_size_profile import Capacity, Profile, Site
from worker.model_cache.batch_size import LOWERED_S, BatchSizes

SITE = Site("a GPU", "sd", 512, 512, "bfloat16")
FOUND = Capacity(32, {1: 1.0, 16: 15.0, 32: 25.0}, "2026-11-22T10:00:00+00:00")


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    settings = load_settings(models_dir=tmp_path)
    Profile(settings.models_path).put(SITE, FOUND)
    return settings


def test_memory_that_others_take_for_a_minute_lowers_one_process_for_a_while(own: Settings) -> None:
    now = [0.0]
    batch_sizes = BatchSizes(own, lambda: now[0])
    assert batch_sizes.of(SITE, 8) == 32
    for fewer in (16, 8, 4, 2, 1):
        batch_sizes.lower(SITE, fewer, is_ours=False)
        assert batch_sizes.of(SITE, 8) == fewer
    assert BatchSizes(own).of(SITE, 8) == 32, "other workers go on as before"
    assert Profile(own.models_path).get(SITE) == FOUND
    now[0] += LOWERED_S
    assert batch_sizes.of(SITE, 8) == 32


def test_memory_that_runs_out_once_is_noted_for_nobody_else(own: Settings) -> None:
    BatchSizes(own).lower(SITE, 16, is_ours=True)
    assert Profile(own.models_path).get(SITE) == FOUND


def test_memory_that_runs_out_again_is_noted_for_all_for_a_day(own: Settings) -> None:
    batch_sizes = BatchSizes(own)
    batch_sizes.lower(SITE, 16, is_ours=True)
    batch_sizes.lower(SITE, 8, is_ours=True)
    assert BatchSizes(own).of(SITE, 4) == 8
    noted = Profile(own.models_path).get(SITE)
    assert noted is not None
    assert (noted.rows, noted.found, noted.is_lowered) == (8, 32, True)
    age(own, timedelta(hours=25))
    assert BatchSizes(own).of(SITE, 4) == 32


def age(own: Settings, by: timedelta) -> None:
    """As if what is in the file had been noted so long ago."""
    path = own.models_path / "capacity.json"
    noted = json.loads(path.read_text())
    (site,) = noted["a GPU"].values()
    site["measured"] = (datetime.now(UTC) - by).isoformat()
    path.write_text(json.dumps(noted))


def test_what_an_older_version_lowered_for_ever_is_as_before_after_a_day(own: Settings) -> None:
    Profile(own.models_path).put(SITE, Capacity(1, FOUND.tried, FOUND.measured, is_lowered=True))
    assert BatchSizes(own).of(SITE, 4) == 32
    Profile(own.models_path).put(SITE, Capacity(1, {}, FOUND.measured, is_lowered=True))
    assert BatchSizes(own).of(SITE, 4) == 4, "nothing was measured"
