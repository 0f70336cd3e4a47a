"""A real SLURM of one node, from Debian's packages, which are unpacked into build/tools and not installed."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from tests.paths import ROOT

FOLDER = ROOT / "build" / "tools" / "slurm"
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/socket/munge
CryptoType=crypto/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
MinJobAge=3600
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000
PartitionName=night Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
"""KillWait stays at its default, 30 seconds."""


class Cluster:
    """A running cluster; `environment` is that of a person who is logged in on it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, dict(environment)

    def run(self, *command: str | Path, check: bool = True, **variables: str) -> str:
        """Run a command as that person and return what it printed."""
        done = subprocess.run(
            command,
            env=self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def fields(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job or of a task of an array job."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def cancel_all(self) -> None:
        """Cancel all jobs and wait until they have ended."""
        self.run("scancel", "--user", getpass.getuser())
        _await(lambda: not self.run("squeue", "--noheader"), self.folder)


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """A cluster whose files lie in the folder; it ends with the block, and so do its jobs."""
    usr = _unpacked() / "usr"
    plugins = next(usr.glob("lib/*/slurm-wlm"))
    for name, mode in {"munge": 0o700, "socket": 0o755, "state": 0o700, "spool": 0o755}.items():
        (folder / name).mkdir(mode=mode)
    (folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
    (folder / "munge" / "key").chmod(0o400)
    values = {"host": socket.gethostname().split(".")[0], "ports": _ports(), "user": getpass.getuser()}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, plugins=plugins, **values))
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{plugins.parent}:{plugins}",
        "SLURM_CONF": str(configuration),
        "PATH": f"{ROOT / '.venv' / 'bin'}:{usr / 'bin'}:{os.environ['PATH']}",
    }
    munge = [f"--{name}-file={folder / 'munge' / name}" for name in ("key", "pid", "log", "seed")]
    stepd = usr / "sbin" / "slurmstepd-wlm"
    commands = [
        [
            usr / "sbin" / "munged",
            "--foreground",
            "--force",
            f"--socket={folder / 'socket' / 'munge'}",
            *munge,
        ],
        [usr / "sbin" / "slurmctld-wlm", "-D", "-c"],
        [usr / "sbin" / "slurmd-wlm", "-D", "-d", stepd],
    ]
    cluster, daemons = Cluster(folder, environment), list[subprocess.Popen[bytes]]()
    try:
        with (folder / "daemons.log").open("wb") as log:
            for command in commands:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                time.sleep(0.5)
        _await(lambda: "idle" in cluster.run("sinfo", "--noheader", "--format=%T", check=False), folder)
        yield cluster
        cluster.cancel_all()
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait(20)


def _await(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 45
    while not condition():
        assert time.monotonic() < deadline, (folder / "daemons.log").read_text()[-3000:]
        time.sleep(0.2)


def _ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return [one.getsockname()[1], other.getsockname()[1]]


def _unpacked() -> Path:
    """Fetch and unpack the packages with those that they need, if that hasn't been done; skip the test if it fails."""
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get, which fetches SLURM")
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER.parent / ".slurm.lock"):
        if not FOLDER.exists():
            work = FOLDER.with_suffix(".part")
            shutil.rmtree(work, ignore_errors=True)
            (work / "archives" / "partial").mkdir(parents=True)
            _fetch(work / "archives")
            for package in (work / "archives").glob("*.deb"):
                subprocess.run(["dpkg-deb", "--extract", package, work / "root"], check=True)
            (work / "root").rename(FOLDER)
            shutil.rmtree(work)
    return FOLDER


def _fetch(archives: Path) -> None:
    options = [
        "-o",
        f"Dir::Cache::archives={archives}",
        "-o",
        "Debug::NoLocking=1",
        "-o",
        "APT::Sandbox::User=root",
    ]
    command = [
        "apt-get",
        "install",
        "--download-only",
        "--yes",
        "--no-install-recommends",
        *options,
        *PACKAGES,
    ]
    for before in ([], ["apt-get", "update"]):
        if before:
            subprocess.run(before, capture_output=True, check=False, timeout=300)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode == 0:
            return
    pytest.skip(f"SLURM can't be had: {done.stderr[-500:]}")
