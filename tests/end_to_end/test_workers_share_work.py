"""Two workers and a scheduler that share what there is to do; what they draw is no part of it."""

import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobs.batches import actions
from tests.chaos.stub import RENDERS, stubbed
from tests.command_line import Ended
from tests.end_to_end.farm import Farm, farm_of
from tests.end_to_end.processes import foxes, manifest, truth, until
from tests.factories import look
from tests.s3 import S3Server
from tests.servers import DatabasePool


@pytest.fixture(scope="module")
def farm(
    databases: DatabasePool, shared_models: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    with stubbed(folder, step_s=0.05), farm_of(2, databases, shared_models, s3, folder) as farm:
        yield farm


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
    renders = (farm.nightmill.folder / RENDERS).read_text().splitlines()
    assert Counter(line.split()[1] for line in renders) == Counter(str(job["seed"]) for job in done.jobs)


def test_redis_forgets_everything(farm: Farm) -> None:
    name = farm.submit(foxes(12, steps=10))
    client = redis.Redis.from_url(farm.settings.broker.replace("redis+socket://", "unix://"))
    for count in (1, 4, 8):
        until(lambda count=count: len(truth(farm.engine, name).images) >= count)
        client.flushall()
    client.close()
    assert farm.wait(name).attempts() == {1}


def test_pause_resume_and_cancel(farm: Farm) -> None:
    name = farm.submit(foxes(120, steps=20))
    until(lambda: len(truth(farm.engine, name).images) >= 2)
    paused = farm.typed("pause", name, "--json")
    assert (paused.code, paused.json["state"]) == (0, "paused")
    until(lambda: not actions.status(farm.engine, name).counts["running"])
    before = truth(farm.engine, name)
    assert {job["attempt"] for job in before.jobs if job["state"] == "queued"} == {0}
    refused = farm.nightmill("run", str(farm.nightmill.folder / f"{name}.jsonl"), "--workers", "0")
    assert refused.code == 2
    assert f"batch {name} is paused: `nightmill resume {name}` first" in refused.err
    assert len(truth(farm.engine, name).images) == len(before.images)
    assert farm.typed("resume", name, "--json").json["state"] in ("running", "queued")
    until(lambda: len(truth(farm.engine, name).images) > len(before.images))
    cancelled = farm.typed("cancel", name)
    assert cancelled.code == 0
    assert f"{name} is cancelled: " in cancelled.err
    images = len(truth(farm.engine, name).images)
    counts = actions.status(farm.engine, name).counts
    assert (counts["done"], counts["cancelled"]) == (images, 120 - images)
    queued = farm.typed("retry", name, "--only", "cancelled", "--json")
    assert queued.json["counts"]["queued"] + queued.json["counts"]["running"] > 0
    farm.typed("cancel", name)


def test_a_paused_run_says_how_it_goes_on(farm: Farm) -> None:
    name = f"b-{secrets.token_hex(4)}"
    path = manifest(farm.nightmill.folder, foxes(20, steps=30), f"{name}.jsonl")
    running_command = farm.nightmill.start("run", path, "--workers", "0")
    until(lambda: truth(farm.engine, name).images)
    batch = actions.status(farm.engine, name)
    actions.pause(farm.engine, batch.id)
    _, err = running_command.communicate(timeout=150)
    assert running_command.returncode == 1
    assert f"jobs wait: `nightmill resume {name}`, then the same command goes on" in err
    actions.cancel(farm.engine, batch.id)


def test_a_run_on_the_farm_puts_all_into_the_bucket(farm: Farm) -> None:
    name = f"b-{secrets.token_hex(4)}"
    path = manifest(farm.nightmill.folder, foxes(3), f"{name}.jsonl")
    out = f"{farm.settings.output}/elsewhere"
    ended: Ended = farm.nightmill("run", path, "--workers", "0", "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["images"] == f"{out}/{name}/images"
    assert ended.json["contact_sheet"] == f"{out}/{name}/contact-sheet.png"
    farm.check(name)
    listed = farm.typed("export", name, "--format", "jsonl", "--to", f"{out}/exported", "--json")
    assert listed.json["files"] == [f"{out}/exported/part-00000.jsonl"]


def test_a_bucket_that_is_not_there_is_said_before_anything_is_rendered(farm: Farm) -> None:
    path = manifest(farm.nightmill.folder, foxes(1), "lost.jsonl")
    ended = farm.nightmill("run", path, "--out", "s3://not-there/x", "--workers", "0")
    assert ended.code == 1
    assert "not-there" in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("error:") == 1
    actions.cancel(farm.engine, actions.status(farm.engine, "lost").id)


def test_manifests_in_a_bucket(farm: Farm, s3: S3Server) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key="in/cats.tsv", Body=b"Prompt\tcolour\na cat\tgrey\n")
    client.close()
    planned = farm.typed("plan", f"{s3.uri}/in/cats.tsv", "--json")
    assert (planned.code, planned.json["jobs"]) == (0, 1)
    missing = farm.typed("plan", f"{s3.uri}/in/dogs.tsv")
    assert missing.code in (1, 2)
    assert "in/dogs.tsv" in missing.err
    assert "Traceback" not in missing.err
