"""What `docker compose --profile cpu up` starts, as processes: it renders a manifest and stops when asked."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.containers.compose import Service, services
from tests.infra.containers.compose_host import ComposeHost, compose_host, why_not

pytestmark = [pytest.mark.slow]
SERVICES = services()
ROWS = 3
ORDER = ("postgres", "valkey", "s3", "migrate", "bucket", "scheduler", "worker-cpu", "demo")


@pytest.fixture
def host() -> Iterator[ComposeHost]:
    """In a folder that any user may enter, as PostgreSQL is another than we are."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="nightmill-compose-"))
    folder.chmod(0o755)
    with compose_host(folder) as made:
        yield made
    shutil.rmtree(folder)


def test_the_order_is_the_one_that_is_written() -> None:
    """What runs without a profile or with `cpu`, each after what it waits for."""
    wanted = [name for name, one in SERVICES.items() if set(one.given.get("profiles", ["cpu"])) == {"cpu"}]
    assert sorted(ORDER) == sorted(wanted)
    for name in ORDER:
        assert set(SERVICES[name].needs) <= set(ORDER[: ORDER.index(name)])


def test_the_demo_is_rendered_and_everything_stops(host: ComposeHost) -> None:
    rows = [{"prompt": f"a large blue circle {n}", "model": "tiny-random", "steps": 2} for n in range(ROWS)]
    (host.folder / "examples" / "demo.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (host.folder / "secrets").chmod(0o755)  # PostgreSQL, too, is let in by the container's runtime

    host.start_postgres()
    for name in ("valkey", "s3"):
        host.start(SERVICES[name])
    for name in ("postgres", "valkey", "s3"):
        host.await_healthy(SERVICES[name])
    for name in ("migrate", "bucket"):
        done(host, SERVICES[name])
    for number in (1, 2):
        host.start(SERVICES["scheduler"], number)
        host.await_healthy(SERVICES["scheduler"], number)
    assert "has not been" not in done(host, SERVICES["demo"])
    host.start(SERVICES["worker-cpu"])
    host.await_healthy(SERVICES["worker-cpu"])

    command(host, "status", "demo", "--watch")  # until nothing is left to do
    counts = json.loads(command(host, "status", "demo", "--json"))["counts"]
    assert counts["done"] == ROWS, (counts, host.log(SERVICES["worker-cpu"]))
    command(host, "export", "demo", "--format", "jsonl", "--to", str(host.folder / "exports"))
    lines = "".join(path.read_text() for path in (host.folder / "exports").glob("*.jsonl")).splitlines()
    assert len(lines) == ROWS
    assert all(json.loads(line)["uri"].startswith("s3://nightmill/demo/") for line in lines)

    begun = time.monotonic()
    assert host.stop(SERVICES["worker-cpu"]) == 0
    assert [host.stop(SERVICES["scheduler"], number) for number in (1, 2)] == [0, 0]
    assert time.monotonic() - begun < 15
    assert not host.is_healthy(SERVICES["scheduler"])
    for name in ("s3", "valkey", "postgres"):
        host.stop(SERVICES[name])


def test_a_server_that_is_away_is_not_healthy(host: ComposeHost) -> None:
    for name in ("postgres", "valkey", "s3", "scheduler", "worker-cpu"):
        assert not host.is_healthy(SERVICES[name]), name


def done(host: ComposeHost, service: Service) -> str:
    ended = host.run(service)
    assert ended.returncode == 0, (service.name, ended.stdout, ended.stderr)
    return ended.stdout


def command(host: ComposeHost, *arguments: str) -> str:
    """What a `nightmill` command of the service `cli` prints."""
    return done(host, Service("cli", SERVICES["cli"].given | {"command": list(arguments)}))
