"""The container images, built here and run: the server's commands, and a worker that renders 20 rows.

Needs root, buildah, debootstrap and a package index; five minutes and 5 GB on disk while it runs. The worker is
built only where PyTorch without CUDA is at hand (a folder of wheels that pip knows, or TORCH_INDEX). What is in
IMAGE_STORAGE stays there for the next time.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from jobs.settings import Settings
from tests.chaos.netns import relay
from tests.slow.container import USER, VOLUMES, Container, Image, build, container, first_process, stop

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(1500)]

MEGABYTES = {"server": 370, "worker": 2000}
ROWS = 20


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Buildah keeps images and containers."""
    if kept_folder := os.environ.get("IMAGE_STORAGE"):
        yield Path(kept_folder)
        return
    folder = tmp_path_factory.mktemp("images")
    yield folder
    kept = ["--root", folder / "images", "--runroot", folder / "run"]
    if shutil.which("buildah"):
        subprocess.run(["buildah", *kept, "rm", "--all"], capture_output=True, check=False)
        subprocess.run(["buildah", *kept, "rmi", "--all", "--force"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def server(storage: Path) -> Image:
    return build("server", storage)


@pytest.fixture(scope="module")
def worker(storage: Path) -> Image:
    pip = [sys.executable, "-m", "pip", "config", "list"]
    has_wheels = "find-links" in subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    if not has_wheels and not os.environ.get("TORCH_INDEX"):
        pytest.skip("no PyTorch without CUDA: set TORCH_INDEX, or find-links in pip's configuration")
    return build("worker", storage, ["--torch", "cpu"])


@pytest.fixture
def servers_by_tcp(servers: Settings, database: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The test's database and Redis at TCP ports, as a container sees servers."""
    folder = servers.data_dir
    unix = next((folder / "postgres").glob(".s.PGSQL.*"))
    with relay("127.0.0.1", unix) as postgres, relay("127.0.0.1", folder / "redis" / "redis.sock") as redis:
        name = database.split("?", maxsplit=1)[0].rsplit("/", 1)[1]
        yield {
            "NIGHTMILL_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres}/{name}",
            "NIGHTMILL_BROKER_URL": f"redis://127.0.0.1:{redis}/0",
            "NIGHTMILL_QUEUE": f"q-{os.urandom(4).hex()}",
            "NIGHTMILL_DEFAULT_MODEL": "tiny-random",
        }


@pytest.mark.parametrize("name", ["server", "worker"])
def test_what_an_image_says_and_weighs(name: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(name)
    said = image.settings
    assert (said["User"], said["Entrypoint"], said["StopSignal"]) == (
        f"{USER}:{USER}",
        ["nightmill"],
        "SIGTERM",
    )
    assert set(said["Volumes"]) == {f"/{volume}" for volume in VOLUMES}
    assert said["Healthcheck"]["Test"] == ["CMD", "python", "-m", "jobs.monitoring.healthcheck"]
    assert said["Labels"]["org.opencontainers.image.title"] == f"nightmill {name}"
    assert len(said["Labels"]["org.opencontainers.image.revision"]) == 40
    print(f"{name}: {image.megabytes:.0f} MB")
    assert image.megabytes <= MEGABYTES[name]


def test_the_server_checks_submits_and_schedules(
    server: Image, servers_by_tcp: dict[str, str], tmp_path: Path
) -> None:
    address = {"NIGHTMILL_METRICS_ADDRESS": free_address()}
    with container(server, tmp_path, servers_by_tcp | address) as box:
        before = box.files()
        manifest(tmp_path / "data" / "rows.jsonl")
        assert box.run("id", "-u").stdout == f"{USER}\n"
        assert ended(box, "migrate", "--json")["after"]
        checks = {check["check"]: check for check in ended(box, "doctor", "--json")}
        assert all(check["ok"] for check in checks.values()), checks
        assert "without the worker's packages" in checks["device"]["finding"]
        assert ended(box, "submit", "/data/rows.jsonl", "--json")["counts"]["queued"] == ROWS
        assert box.run("nightmill", "export", "rows", "--format", "parquet").returncode == 0
        assert box.files() == before

        assert "doesn't answer" in box.run("python", "-m", "jobs.monitoring.healthcheck").stderr
        scheduler = box.start("nightmill", "scheduler")
        wait_until(lambda: box.run("python", "-m", "jobs.monitoring.healthcheck").stdout == "healthy\n")
        assert command(scheduler).endswith(" -m scheduler")
        stop(scheduler, within_s=10)
        assert scheduler.returncode == 0


def test_the_bill_of_materials_names_what_is_installed(server: Image, tmp_path: Path) -> None:
    with container(server, tmp_path, {}) as box:
        listed = box.run("cat", "/opt/nightmill/sbom.cdx.json").stdout
        script = (
            "from importlib.metadata import distributions as d; print(*{x.metadata['Name'] for x in d()})"
        )
        installed = box.run("python", "-c", script).stdout.split()
    bill = orjson.loads(listed)
    assert (bill["bomFormat"], {part["name"] for part in bill["components"]}) == ("CycloneDX", set(installed))
    assert not any(part["name"] in ("torch", "uv", "cyclonedx-bom") for part in bill["components"])


def test_the_worker_renders_and_drains(worker: Image, servers_by_tcp: dict[str, str], tmp_path: Path) -> None:
    """Read-only but for its volumes and /tmp, as PID 1: it renders, and ends well within the grace of containers."""
    address = {"NIGHTMILL_METRICS_ADDRESS": free_address()}
    with container(worker, tmp_path, servers_by_tcp | address) as box:
        before = box.files()
        manifest(tmp_path / "data" / "rows.jsonl")
        assert ended(box, "submit", "/data/rows.jsonl", "--json")["counts"]["queued"] == ROWS
        scheduler = box.start("nightmill", "scheduler", NIGHTMILL_METRICS_ADDRESS=free_address())
        started = box.start("nightmill", "worker")
        wait_until(lambda: ended(box, "status", "rows", "--json")["counts"].get("done") == ROWS)
        assert command(started).endswith(" -m worker")
        assert "ro," in mounts(started)["/"]
        wait_until(lambda: box.run("python", "-m", "jobs.monitoring.healthcheck").stdout == "healthy\n")
        begun = time.monotonic()
        said = stop(started, within_s=30)
        assert time.monotonic() - begun < 10
        assert (started.returncode, "Traceback" in said) == (0, False), said[-2000:]
        stop(scheduler, within_s=10)
        assert box.files() == before
    images = list((tmp_path / "output").rglob("*.png"))
    assert len(images) == ROWS
    assert {path.stat().st_uid for path in images} == {USER}


def manifest(path: Path) -> None:
    rows = (
        {"prompt": f"a red circle, number {n}", "width": 64, "height": 64, "steps": 2} for n in range(ROWS)
    )
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def ended(box: Container, *arguments: str) -> object:
    """What a command that ended well printed, as JSON."""
    done = box.run("nightmill", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return orjson.loads(done.stdout)


def command(started: subprocess.Popen[str]) -> str:
    """The command line of a container's PID 1."""
    status = Path(f"/proc/{first_process(started)}/status").read_text()
    assert next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1] == "1"
    return Path(f"/proc/{first_process(started)}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def mounts(started: subprocess.Popen[str]) -> dict[str, str]:
    """The options of each mount that a container sees."""
    lines = Path(f"/proc/{first_process(started)}/mounts").read_text().splitlines()
    return {line.split()[1]: line.split()[3] for line in lines}


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def wait_until(is_so: object, within_s: float = 120) -> None:
    until = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.5)
