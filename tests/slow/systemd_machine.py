"""A real systemd as process 1 of namespaces of its own, over a copy-on-write view of this machine's files.

It knows the base units named here and no others: it shares this machine's network, which it must leave alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.paths import ROOT

SYSTEMD = Path("/lib/systemd/systemd")
BASE_UNITS = (
    *(f"{name}.target" for name in ("basic", "sysinit", "sockets", "paths", "slices", "timers", "shutdown")),
    *(
        f"{name}.target"
        for name in ("umount", "network", "network-online", "multi-user", "time-sync", "time-set")
    ),
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
)
SOURCE, PYTHON, VENV = "/opt/source", "/opt/python", "/opt/nightmill"
BOOT = f"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p {SOURCE[1:]} {PYTHON[1:]} && mount --bind "$2" {SOURCE[1:]} && mount --bind "$3" {PYTHON[1:]}
mount -t proc proc proc && mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/shm && mount -t tmpfs -o mode=1777 tmpfs dev/shm
mkdir dev/pts && mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts && ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
rm -rf etc/systemd/system && mkdir -p etc/systemd/system
for name in {" ".join(BASE_UNITS)}; do cp lib/systemd/system/$name etc/systemd/system/; done
mkdir -p old && pivot_root . old && umount -l old && rmdir old && mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 container=tests SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    {SYSTEMD} --system --unit=basic.target --log-target=journal --show-status=no
"""
# Where services can read it: this Python may lie in a home folder, and so may its packages.
EQUIP = f"""
mkdir -p {VENV}/bin
ln -s {SOURCE}/.venv/lib {VENV}/lib
ln -s {PYTHON}/bin/python{sys.version_info.major}.{sys.version_info.minor} {VENV}/bin/python
echo 'home = {PYTHON}/bin' > {VENV}/pyvenv.cfg
cat > {VENV}/bin/nightmill <<'END'
#!/bin/sh
export PYTHONPATH={SOURCE} LD_LIBRARY_PATH={PYTHON}/lib
exec {VENV}/bin/python -m console.entry_point "$@"
END
chmod 755 {VENV}/bin/nightmill
"""


class Machine:
    """A running systemd; commands run beside it, in its namespaces."""

    def __init__(self, pid: int, log: Path) -> None:
        self._log = log
        self._enter = ["nsenter", "-t", str(pid), "-m", "-p", "-u", "-i", "-C", "-r", "-w", "--"]

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a script by root's shell in the folder of the sources; returns what it printed."""
        done = self._run(f"cd {SOURCE}; {script}")
        if check and done.returncode:
            pytest.fail(f"{script}\n{done.stdout}\n{self.logs()}")
        return done.stdout

    def logs(self) -> str:
        """The last lines of systemd and of its services."""
        return self._log.read_text()[-3000:] + self._run("journalctl --no-hostname -n 60").stdout

    def _run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter, "sh", "-euc", script],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SYSTEMD_PAGER": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=90,
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.sh(f"systemctl show --value -p {name} {unit}").strip()


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boot in namespaces and a cgroup of its own; all processes and mounts end with the block."""
    cgroup = _cgroup()
    if os.geteuid() != 0 or not SYSTEMD.exists() or cgroup is None:
        pytest.skip("needs root, systemd and cgroups of version 2")
    group = cgroup / f"nightmill-{os.getpid()}"
    group.mkdir()
    namespaces = ["--mount", "--pid", "--fork", "--cgroup", "--uts", "--ipc", "--kill-child=KILL"]
    log = folder / "systemd.log"
    with log.open("wb") as stream:
        process = psutil.Popen(
            ["unshare", *namespaces, "sh", "-c", BOOT, "sh", str(folder), str(ROOT), sys.base_prefix],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        )
    try:
        yield _ready(process, log)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        _remove(group)


def _ready(process: psutil.Popen, log: Path) -> Machine:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        first = next((child for child in process.children() if child.name() == "systemd"), None)
        if first is not None:
            machine = Machine(first.pid, log)
            if "active" in machine.sh("systemctl is-active basic.target || true"):
                machine.sh(EQUIP)
                return machine
        time.sleep(0.2)
    pytest.skip(f"systemd doesn't start in namespaces here: {log.read_text()[-500:]}")


def _cgroup() -> Path | None:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for path, _, _ in os.walk(group, topdown=False):
            try:
                Path(path).rmdir()
            except OSError:
                time.sleep(0.1)
