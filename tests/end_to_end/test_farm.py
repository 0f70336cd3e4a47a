"""A scheduler and two workers that run all the time, as on hosts of their own, with S3 as the object store."""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import redis
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs import batches
from jobs.database import connect
from jobs.objects import S3Options, open_store
from jobs.settings import Settings
from tests.conftest import Ended, Nightmill, new_database
from tests.end_to_end.kit import (
    Rows,
    Truth,
    check_exactly_once,
    child_of,
    descendants,
    end,
    foxes,
    gone,
    manifest,
    maps_torch,
    running,
    truth,
    until,
)
from tests.factories import look
from tests.s3 import S3Server


@dataclass(frozen=True)
class Farm:
    """Running processes, and the command line on the same services."""

    settings: Settings
    engine: Engine
    nightmill: Nightmill
    workers: list[psutil.Popen]

    def submit(self, rows: Rows, *options: str) -> str:
        """Submit a manifest of these rows; the batch's name."""
        name = f"b-{secrets.token_hex(4)}"
        path = manifest(self.nightmill.folder, rows, f"{name}.jsonl")
        submitted = self.nightmill("submit", path, *options, "--json")
        assert submitted.code == 0, submitted.err
        return str(submitted.json["name"])

    def wait(self, name: str) -> Truth:
        """Wait for the batch's end and check that all is well with it."""
        until(lambda: not batches.status(self.engine, name).remaining)
        return self.check(name)

    def check(self, name: str) -> Truth:
        """Every job once, every object there."""
        s3 = S3Options(endpoint_url=self.settings.s3_endpoint_url, region=self.settings.s3_region)
        return check_exactly_once(self.engine, name, batches.status(self.engine, name).output, s3)


@pytest.fixture(scope="module")
def farm(
    servers: Settings, shared_models: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    with new_database(servers) as database:
        settings = servers.model_copy(
            update={
                "data_dir": folder / "data",
                "database_url": SecretStr(database),
                "output": f"{s3.uri}/night",
                "s3_endpoint_url": s3.endpoint_url,
                "s3_region": "us-east-1",
                "models_dir": shared_models,
                "queue": f"q-{secrets.token_hex(4)}",
                "lease_s": 3,
                "tick_s": 0.1,
                "retry_delay_s": 0.1,
                "gpu_rows": 2,
                "claim": 2,
            }
        )
        engine = connect(database)
        with running(settings, "scheduler", "worker", "worker") as (_, *workers):
            until(lambda: len(look(engine, "SELECT * FROM workers")) == 2)
            yield Farm(settings, engine, Nightmill(settings, folder), workers)
            family = [child for worker in workers for child in descendants(worker)]
            assert [end(worker) for worker in workers] == [0, 0]
            assert gone(family, 3)
            assert look(engine, "SELECT * FROM workers") == []
        engine.dispose()


def test_several_lanes_are_shared_and_no_job_is_rendered_twice(farm: Farm) -> None:
    rows = [
        *foxes(10),
        *foxes(6, width=96),
        *foxes(2, steps=3, upscale=4),
        *foxes(4, num_images=2, height=96),
    ]
    done = farm.wait(farm.submit(rows))
    assert len(done.images) == 26
    assert done.attempts() == {1}
    assert len({row["worker"] for row in done.images}) == 2
    assert look(farm.engine, "SELECT * FROM attempts") == []
    assert all(child_of(worker) for worker in farm.workers)
    assert not any(maps_torch(worker) for worker in farm.workers), "only a child may have torch in memory"


def test_the_same_manifest_in_two_batches_gives_the_same_pictures(farm: Farm) -> None:
    rows = foxes(7, sampler="euler_a")
    first = farm.wait(farm.submit(rows))
    again = farm.wait(farm.submit(rows, "--name", f"again-{secrets.token_hex(3)}"))
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
    until(lambda: not batches.status(farm.engine, name).remaining)
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


def test_redis_forgets_everything(farm: Farm) -> None:
    name = farm.submit(foxes(12, steps=10))
    client = redis.Redis.from_url(farm.settings.broker.replace("redis+socket://", "unix://"))
    for count in (1, 4, 8):
        until(lambda count=count: len(truth(farm.engine, name).images) >= count)
        client.flushall()
    client.close()
    assert farm.wait(name).attempts() == {1}


def test_pause_resume_and_cancel(farm: Farm) -> None:
    name = farm.submit(foxes(120, steps=80))
    until(lambda: len(truth(farm.engine, name).images) >= 2)
    paused = farm.nightmill("pause", name, "--json")
    assert (paused.code, paused.json["state"]) == (0, "paused")
    until(lambda: not batches.status(farm.engine, name).counts["running"])
    before = truth(farm.engine, name)
    assert {job["attempt"] for job in before.jobs if job["state"] == "queued"} == {0}
    refused = farm.nightmill("run", str(farm.nightmill.folder / f"{name}.jsonl"), "--workers", "0")
    assert refused.code == 2
    assert f"batch {name} is paused: `nightmill resume {name}` first" in refused.err
    assert len(truth(farm.engine, name).images) == len(before.images)
    assert farm.nightmill("resume", name, "--json").json["state"] in ("running", "queued")
    until(lambda: len(truth(farm.engine, name).images) > len(before.images))
    cancelled = farm.nightmill("cancel", name)
    assert cancelled.code == 0
    assert f"{name} is cancelled: " in cancelled.err
    images = len(truth(farm.engine, name).images)
    counts = batches.status(farm.engine, name).counts
    assert (counts["done"], counts["cancelled"]) == (images, 120 - images)
    queued = farm.nightmill("retry", name, "--only", "cancelled", "--json")
    assert queued.json["counts"]["queued"] + queued.json["counts"]["running"] > 0
    farm.nightmill("cancel", name)


def test_a_paused_run_says_how_it_goes_on(farm: Farm) -> None:
    name = f"b-{secrets.token_hex(4)}"
    path = manifest(farm.nightmill.folder, foxes(20, steps=30), f"{name}.jsonl")
    running_command = farm.nightmill.start("run", path, "--workers", "0")
    until(lambda: truth(farm.engine, name).images)
    batch = batches.status(farm.engine, name)
    batches.pause(farm.engine, batch.id)
    _, err = running_command.communicate(timeout=30)
    assert running_command.returncode == 1
    assert f"jobs wait: `nightmill resume {name}`, then the same command goes on" in err
    batches.cancel(farm.engine, batch.id)


def test_a_run_on_the_farm_puts_all_into_the_bucket(farm: Farm) -> None:
    name = f"b-{secrets.token_hex(4)}"
    path = manifest(farm.nightmill.folder, foxes(3), f"{name}.jsonl")
    out = f"{farm.settings.output}/elsewhere"
    ended: Ended = farm.nightmill("run", path, "--workers", "0", "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["images"] == f"{out}/{name}/images"
    assert ended.json["contact_sheet"] == f"{out}/{name}/contact-sheet.png"
    farm.check(name)
    listed = farm.nightmill("export", name, "--format", "jsonl", "--to", f"{out}/exported", "--json")
    assert listed.json["files"] == [f"{out}/exported/part-00000.jsonl"]


def test_a_bucket_that_is_not_there_is_said_before_anything_is_rendered(farm: Farm) -> None:
    path = manifest(farm.nightmill.folder, foxes(1), "lost.jsonl")
    ended = farm.nightmill("run", path, "--out", "s3://not-there/x", "--workers", "0")
    assert ended.code == 1
    assert "not-there" in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("error:") == 1
    batches.cancel(farm.engine, batches.status(farm.engine, "lost").id)


def test_manifests_in_a_bucket(farm: Farm, s3: S3Server) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key="in/cats.tsv", Body=b"Prompt\tcolour\na cat\tgrey\n")
    client.close()
    planned = farm.nightmill("plan", f"{s3.uri}/in/cats.tsv", "--json")
    assert (planned.code, planned.json["jobs"]) == (0, 1)
    missing = farm.nightmill("plan", f"{s3.uri}/in/dogs.tsv")
    assert missing.code in (1, 2)
    assert "in/dogs.tsv" in missing.err
    assert "Traceback" not in missing.err
