"""Input images that S3 refuses: the row's fault if the key is accepted elsewhere, else the key's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from sqlalchemy import Engine

from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from jobs.states import ErrorKind
from tests.chaos.proxy import Proxy, Request, faulty
from tests.factories import lanes_of, states
from tests.s3 import S3Server
from tests.worker.contexts import attempts_of, images_of, jobs_of, submit, worker_context_for
from tests.worker.imaging.test_input_cache import encoded, picture
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7, "strength": 0.5}

pytestmark = pytest.mark.usefixtures("no_pauses")


@dataclass(frozen=True)
class Place:
    """A worker's context with inputs and output in the bucket, behind the proxy."""

    context: WorkerContext
    proxy: Proxy
    uri: str


@pytest.fixture
def place(
    settings: Settings,
    engine: Engine,
    models_folder: Path,
    model_cache: ModelCache,
    s3: S3Server,
    tmp_path: Path,
) -> Iterator[Place]:
    """A place with two input images, ``ours/fox.png`` and ``theirs/fox.png``."""
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    for owner in ("ours", "theirs"):
        client.put_object(Bucket=s3.bucket, Key=f"{owner}/fox.png", Body=encoded(picture()))
    client.close()
    with faulty(s3.endpoint_url, share=0, hang_s=0) as proxy:
        reaching = {"s3_endpoint_url": proxy.endpoint_url, "s3_region": "us-east-1"}
        own = {"models_dir": models_folder, "retry_delay_s": 0, "output": f"{s3.uri}/{tmp_path.name}"}
        with worker_context_for(settings.model_copy(update=reaching | own), engine, model_cache) as context:
            yield Place(context, proxy, s3.uri)


def refuse(place: Place, code: str, is_meant: Callable[[Request], bool]) -> None:
    """Refuse requests with 403 from now on."""
    place.proxy.refusal = lambda request: (403, code) if is_meant(request) else None


def test_somebody_elses_picture_is_the_rows_fault(place: Place, engine: Engine, tmp_path: Path) -> None:
    refuse(place, "AccessDenied", lambda request: "/theirs/" in request.path)
    rows = [FOX | {"init_image": f"{place.uri}/{owner}/fox.png"} for owner in ("theirs", "ours")]
    batch = submit(place.context.settings, engine, tmp_path, rows)
    (lane,) = lanes_of(engine, batch)
    work(place.context, lane)
    denied, done = jobs_of(engine, batch)
    assert (denied["state"], denied["error_kind"]) == ("failed", ErrorKind.BAD_INPUT)
    assert "init_image: can't read s3://" in denied["error_text"]
    assert "(AccessDenied); key …" in denied["error_text"]
    assert done["state"] == "done"
    assert not unhealthy_workers(engine)


def test_a_key_that_is_taken_away_in_the_batch_is_no_fault_of_any_row(
    place: Place, engine: Engine, tmp_path: Path
) -> None:
    """Though nothing is written to the store, which could show that it is refused there as well."""
    folder = place.context.settings.model_copy(update={"output": str(tmp_path / "out")})
    context = replace(place.context, settings=folder)
    rows = [FOX | {"init_image": f"{place.uri}/{owner}/fox.png"} for owner in ("ours", "theirs")]
    batch = submit(folder, engine, tmp_path, rows)
    (lane,) = lanes_of(engine, batch)
    read: list[str] = []

    def is_after_the_first(request: Request) -> bool:
        read.extend([request.path] if request.path.endswith("/fox.png") else [])
        return any("theirs" in path for path in read)

    refuse(place, "AccessDenied", is_after_the_first)
    work(context, lane)
    assert "failed" not in states(engine)
    (sick,) = unhealthy_workers(engine)
    assert f"can't read {place.uri}/theirs/fox.png" in sick.reason
    refuse(place, "AccessDenied", lambda request: "theirs" in request.path)
    while "queued" in states(engine):
        assert work(context, lane)
    done, denied = jobs_of(engine, batch)
    assert (done["state"], denied["error_kind"]) == ("done", ErrorKind.BAD_INPUT)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "AccessDenied"])
def test_a_key_that_is_refused_everywhere_is_no_fault_of_any_row(
    place: Place, engine: Engine, tmp_path: Path, code: str
) -> None:
    """Some stores say "access denied" of keys that were taken away."""
    rows = [FOX | {"init_image": f"{place.uri}/{owner}/fox.png"} for owner in ("theirs", "ours")]
    batch = submit(place.context.settings, engine, tmp_path, rows)
    (lane,) = lanes_of(engine, batch)
    opened: list[str] = []

    def is_after_the_start(request: Request) -> bool:
        opened.extend([request.path] if request.path.endswith("/fox.png") else [])
        return bool(opened)

    refuse(place, code, is_after_the_start)
    work(place.context, lane)
    assert states(engine) == {"queued": 2}
    (sick,) = unhealthy_workers(engine)
    assert f"can't read {place.uri}/" in sick.reason
    assert f"({code}); key … from the environment (AWS_ACCESS_KEY_ID)" in sick.reason
    refuse(place, code, lambda _: False)
    while states(engine) != {"done": 2}:
        assert work(place.context, lane)
    assert len(images_of(engine, batch)) == 2
    assert attempts_of(engine, batch) == []
    assert [job["attempt"] for job in jobs_of(engine, batch)] == [1, 1]
    assert not unhealthy_workers(engine)
