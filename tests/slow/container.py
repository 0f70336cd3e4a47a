"""Images that `make image` builds, and containers of them: by `buildah run`, or read-only with a PID 1 of theirs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.paths import ROOT

# The PyTorch without CUDA that some machines have on disk is for one Python; Debian's is as old as that.
DEBIAN = {(3, 11): "bookworm", (3, 13): "trixie"}.get(sys.version_info[:2], "trixie")
USER = 10001
VOLUMES = ("data", "models", "output")
_RUN = """
set -eu
mount --bind {root} {root}
mount -t proc proc {root}/proc
mount -t tmpfs tmpfs {root}/tmp
mount -t tmpfs tmpfs {root}/dev
touch {root}/dev/null {root}/dev/urandom
mount --bind /dev/null {root}/dev/null
mount --bind /dev/urandom {root}/dev/urandom
mkdir {root}/dev/shm
mount -t tmpfs tmpfs {root}/dev/shm
chmod 1777 {root}/tmp {root}/dev/shm
for volume in {volumes}; do mount --bind {folder}/$volume {root}/$volume; done
mount -o remount,ro,bind {root}
cd {root}/data
exec chroot --userspec={user}:{user} {root} env --chdir=/data "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image in Buildah's storage below `folder`."""

    folder: Path
    name: str

    def buildah(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of Buildah's commands."""
        kept = ("--root", self.folder / "images", "--runroot", self.folder / "run")
        ended = subprocess.run(
            ["buildah", *kept, *arguments], capture_output=True, text=True, check=False, timeout=600
        )
        assert not check or ended.returncode == 0, ended.stderr[-2000:]
        return ended

    @property
    def settings(self) -> dict[str, Any]:
        """What the image says about itself: user, volumes, labels, health check."""
        described: dict[str, Any] = orjson.loads(
            self.buildah("inspect", "--type", "image", self.name).stdout
        )["Docker"]["config"]
        return described

    @property
    def megabytes(self) -> float:
        """The size of all its layers, unpacked."""
        listed = orjson.loads(self.buildah("inspect", "--type", "image", self.name).stdout)["Manifest"]
        return sum(layer["size"] for layer in orjson.loads(listed)["layers"]) / 1e6


class Container:
    """A container with volumes of its own, which belong to the image's user."""

    def __init__(self, image: Image, folder: Path, environment: Mapping[str, str]) -> None:
        self.image = image
        self.folder = folder
        self.environment = environment
        self.started: list[subprocess.Popen[str]] = []
        self.name = image.buildah("from", image.name).stdout.strip()
        # What an image declares as a volume, Buildah fills itself, whatever it is told to mount there.
        image.buildah("config", *(f"--volume=/{volume}-" for volume in VOLUMES), self.name)
        self.root = Path(image.buildah("mount", self.name).stdout.strip())
        for volume in VOLUMES:
            (folder / volume).mkdir(parents=True)
            os.chown(folder / volume, USER, USER)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command by `buildah run` to its end."""
        mounts = [f"--volume={self.folder / volume}:/{volume}" for volume in VOLUMES]
        given = [f"--env={name}={value}" for name, value in self.environment.items()]
        return self.image.buildah(
            *("run", "--isolation", "chroot", *mounts, *given, self.name, "--", *arguments), check=False
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command as PID 1 of a process namespace, in a read-only root; `first_process` is who to signal."""
        configured = dict(item.split("=", 1) for item in self.image.settings["Env"])
        given = configured | dict(self.environment) | environment
        script = _RUN.format(root=self.root, folder=self.folder, volumes=" ".join(VOLUMES), user=USER)
        unshared = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh"]
        started = subprocess.Popen(
            [*unshared, *arguments],
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(started)
        return started

    def remove(self) -> None:
        """Kill what still runs, and remove the container."""
        for started in self.started:
            with suppress(IndexError, OSError):  # it has ended
                os.kill(first_process(started), signal.SIGKILL)
            started.kill()
            started.communicate()
        self.image.buildah("rm", self.name, check=False)

    def files(self) -> dict[str, tuple[int, int, float]]:
        """Mode, size and time of change of every file outside the volumes and what the kernel shows."""
        skipped = {self.root / name for name in (*VOLUMES, "dev", "proc", "sys", "run", "tmp")}
        found = {}
        for folder, names, files in os.walk(self.root):
            names[:] = [name for name in names if Path(folder, name) not in skipped]
            for name in (*names, *files):
                status = Path(folder, name).lstat()
                found[f"{folder}/{name}"] = (status.st_mode, status.st_size, status.st_mtime)
        return found


def first_process(started: subprocess.Popen[str]) -> int:
    """The id that we know the container's PID 1 by."""
    listed = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text()
    return int(listed.split()[0])


def stop(started: subprocess.Popen[str], within_s: float) -> str:
    """Send SIGTERM to PID 1, as a container's runtime does, and return what the container printed to its end."""
    os.kill(first_process(started), signal.SIGTERM)
    try:
        return started.communicate(timeout=within_s)[0]
    except subprocess.TimeoutExpired:
        os.kill(first_process(started), signal.SIGKILL)
        raise


def build(target: str, folder: Path, options: Sequence[str] = ()) -> Image:
    """Build an image as `make image` does; skips the test where that can't be."""
    if os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("debootstrap"):
        pytest.skip("needs root, buildah and debootstrap: apt-get install buildah debootstrap")
    given = f"{target} --debian {DEBIAN} --storage {folder} --tag test {' '.join(options)}"
    ended = subprocess.run(
        ["make", f"IMAGE={given}", "image"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "debootstrap:" in ended.stderr:
        pytest.skip(ended.stderr[-500:])
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    variant = "-cpu" if "cpu" in options else ""
    return Image(folder, f"localhost/nightmill-{target}:test{variant}")


@contextmanager
def container(image: Image, folder: Path, environment: Mapping[str, str]) -> Iterator[Container]:
    """A container that goes with the block."""
    made = Container(image, folder, environment)
    try:
        yield made
    finally:
        made.remove()
