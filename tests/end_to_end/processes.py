"""Real worker and scheduler processes, and what must be true of a batch whatever happened to them."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine

from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from tests.factories import lane_differences, look

Rows = Sequence[Mapping[str, Any]]


def manifest(folder: Path, rows: Rows, name: str = "foxes.jsonl") -> str:
    """Write a manifest and return its path."""
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def foxes(count: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows that differ."""
    return [{"prompt": f"fox number {number}", "steps": 2} | columns for number in range(count)]


def until(condition: Callable[[], Any], seconds: float = 150) -> Any:
    """Wait for something to be true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited for what never came"
        time.sleep(0.05)
    return found


@contextmanager
def running(settings: Settings, *roles: str) -> Iterator[list[psutil.Popen]]:
    """`python -m ROLE` for each role, each leading a process group of its own, none left at the end."""
    log = settings.data_dir / "processes.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    processes = []
    try:
        with log.open("ab") as stream:
            for role in roles:
                processes.append(_start(settings, stream, "-m", role))
        yield processes
    finally:
        for process in processes:
            end(process)


@contextmanager
def command(settings: Settings, folder: Path, *arguments: str) -> Iterator[psutil.Popen]:
    """A `nightmill` command that is still running, its output in `command.log`; killed with all its own at the end."""
    with (folder / "command.log").open("wb") as stream:
        process = _start(settings, stream, "-m", "console.cli", *arguments, cwd=str(folder))
    try:
        yield process
    finally:
        family = descendants(process)
        end(process)
        for member in family:
            kill(member)


def said(folder: Path) -> str:
    """What the command of that folder has printed so far."""
    return (folder / "command.log").read_text()


def end(process: psutil.Popen, number: int = signal.SIGTERM, seconds: float = 30) -> int:
    """Send a signal and return the exit code; a process that takes longer is killed, which is a failure.

    It is killed by SIGABRT, at which one with PYTHONFAULTHANDLER says where it hung.
    """
    if process.poll() is None:
        process.send_signal(number)
    try:
        return int(process.wait(seconds))
    except psutil.TimeoutExpired:
        family = descendants(process)
        with suppress(psutil.Error):
            process.send_signal(signal.SIGABRT)
            process.wait(5)
        for member in (process, *family):
            kill(member)
        raise AssertionError(f"{process.args} did not end within {seconds} s") from None


def kill(process: psutil.Process) -> None:
    """SIGKILL, whether or not it still lives."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """The processes below this one."""
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def named(processes: Sequence[psutil.Process], role: str) -> list[psutil.Process]:
    """Those that run `python -m ROLE`."""
    return [process for process in processes if role in _words(process)]


def child_of(worker: psutil.Process) -> psutil.Process | None:
    """The child of a worker that renders, once it has torch in memory."""
    return next((child for child in descendants(worker) if maps_torch(child)), None)


def maps_torch(process: psutil.Process) -> bool:
    """Whether libtorch is mapped into its memory."""
    try:
        return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


def gone(processes: Sequence[psutil.Process], seconds: float = 20) -> bool:
    """Whether all of them end within that time; one that waits for init to bury it has ended."""
    deadline = time.monotonic() + seconds
    while not all(_has_ended(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@dataclass(frozen=True)
class Truth:
    """A batch as the job table and the object store have it."""

    jobs: list[dict[str, Any]]
    images: list[dict[str, Any]]

    def states(self) -> set[str]:
        """The states that its jobs are in."""
        return {job["state"] for job in self.jobs}

    def attempts(self) -> set[int]:
        """The attempts that its jobs have been charged with."""
        return {job["attempt"] for job in self.jobs}

    def digests(self) -> dict[tuple[int, int], str]:
        """The SHA-256 of each image by its place in the manifest."""
        return {(row["ordinal"], row["index"]): row["sha256"] for row in self.images}


def truth(engine: Engine, name: str) -> Truth:
    """A batch's jobs and images in the order of its manifest."""
    of_batch = 'WHERE batch_id = (SELECT id FROM batches WHERE name = :name) ORDER BY ordinal, "index"'
    return Truth(
        look(engine, f"SELECT * FROM jobs {of_batch}", name=name),  # noqa: S608
        look(engine, f"SELECT * FROM images {of_batch}", name=name),  # noqa: S608
    )


def check_exactly_once(engine: Engine, name: str, output: str, s3: S3Options = S3Options()) -> Truth:  # noqa: B008
    """Every job done once, every image row's object there with its digest, and nothing counted wrongly."""
    found = truth(engine, name)
    assert found.states() == {"done"}
    assert [row["job_id"] for row in found.images] == [job["id"] for job in found.jobs]
    store = open_store(output, s3)
    for row in found.images:
        assert hashlib.sha256(store.get(row["key"])).hexdigest() == row["sha256"]
    assert lane_differences(engine) == []
    return found


def _start(settings: Settings, log: Any, *arguments: str, cwd: str | None = None) -> psutil.Popen:
    return psutil.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=settings.environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_heed_signals,
    )


def _heed_signals() -> None:
    """Whoever runs the tests in the background may have SIGINT and SIGHUP ignored, which children inherit."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or (process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1)
    except psutil.NoSuchProcess:
        return True


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
