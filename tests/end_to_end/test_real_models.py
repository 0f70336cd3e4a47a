"""A worker with real models, started as `nightmill worker` starts it, a scheduler, and S3."""

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from jobs.batches import actions
from jobs.storage.open import S3Options, open_store
from tests.end_to_end.farm import Farm, farm_of
from tests.end_to_end.processes import child_of, foxes, maps_torch, truth, until
from tests.s3 import S3Server
from tests.servers import DatabasePool


@pytest.fixture(scope="module")
def farm(
    databases: DatabasePool, shared_models: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    with farm_of(1, databases, shared_models, s3, tmp_path_factory.mktemp("farm")) as farm:
        yield farm


def test_lanes_of_several_sizes_and_an_upscaled_one(farm: Farm) -> None:
    rows = [*foxes(3), *foxes(2, width=96), *foxes(1, steps=3, upscale=4), *foxes(1, num_images=2, height=96)]
    done = farm.wait(farm.submit(rows))
    assert len(done.images) == 8
    assert done.attempts() == {1}
    assert {(row["width"], row["height"]) for row in done.images} == {
        (64, 64),
        (96, 64),
        (256, 256),
        (64, 96),
    }
    (worker,) = farm.workers
    assert child_of(worker)
    assert not maps_torch(worker), "only a child may have torch in memory"


def test_the_same_manifest_in_two_batches_gives_the_same_pictures(farm: Farm) -> None:
    rows = foxes(7, sampler="euler_a")
    first = farm.wait(farm.submit(rows, "--set", "batch_seed=7"))
    name = f"again-{secrets.token_hex(3)}"
    again = farm.wait(farm.submit(rows, "--set", "batch_seed=7", "--name", name))
    assert len(set(first.digests().values())) == 7
    assert again.digests() == first.digests()


def test_rows_start_from_pictures_on_the_disk_and_on_s3(farm: Farm) -> None:
    """By name and by URI; one that turns out to be none fails alone."""
    path = farm.nightmill.folder / "start.png"
    Image.new("RGB", (90, 70), (180, 40, 40)).save(path)
    (farm.nightmill.folder / "none.png").write_text("no picture")
    s3 = S3Options(endpoint_url=farm.settings.s3_endpoint_url, region=farm.settings.s3_region)
    open_store(farm.settings.output, s3).put("brought/start.png", path, content_type="image/png")
    remote = f"{farm.settings.output}/brought/start.png"
    rows = [
        *foxes(1, init_image="start.png"),
        *foxes(1, init_image=remote, strength=0.5),
        *foxes(1, init_image=remote, model="tiny-x4"),
        *foxes(1, init_image="none.png"),
    ]
    name = farm.submit(rows)
    until(lambda: not actions.status(farm.engine, name).remaining)
    found = truth(farm.engine, name)
    assert [(job["state"], job["error_kind"]) for job in found.jobs] == [("done", None)] * 3 + [
        ("failed", "bad-input")
    ]
    assert [(row["mode"], row["generated_width"], row["init_image"]) for row in found.images] == [
        ("image2image", 64, str(path)),
        ("image2image", 64, remote),
        ("upscale", 90, remote),
    ]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert {row["init_image_sha256"] for row in found.images} == {digest}
