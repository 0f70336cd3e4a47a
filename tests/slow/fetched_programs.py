"""Servers and tools of other versions, from packages that are unpacked and not installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.other_postgres import let_through

REDIS_PACKAGES = ("redis-tools", "liblzf1", "libjemalloc2", "liblua5.1-0", "libhiredis0.14")
"""Debian's redis-server is a link to the one program that is in redis-tools."""


def fetched(*command: str, cwd: Path) -> None:
    """Fetch a package, or skip the test where it can't be had."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr[-300:]}")


def debian_files(folder: Path, *packages: str) -> tuple[Path, str]:
    """Unpack Debian packages; returns the root of their files, and the value of LD_LIBRARY_PATH that they need."""
    let_through(folder)  # apt and servers run as users of their own
    folder.chmod(0o755)
    fetched("apt-get", "download", *packages, cwd=folder)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "files"], check=True)
    return folder / "files", ":".join(map(str, (folder / "files" / "usr" / "lib").glob("*-linux-gnu")))


def debian_redis(folder: Path) -> tuple[Path, str]:
    """Fetch Debian's Redis; returns the program `redis-server`, and the value of LD_LIBRARY_PATH that it needs."""
    files, libraries = debian_files(folder, *REDIS_PACKAGES)
    program = folder / "bin" / "redis-server"
    program.parent.mkdir()
    shutil.copy(files / "usr" / "bin" / "redis-check-rdb", program)
    return program, libraries
