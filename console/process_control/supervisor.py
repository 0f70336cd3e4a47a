"""Start scheduler and worker processes, restart them when they die, and stop them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from console.terminal.output import note
from jobs.errors import ServiceError, UsageError
from jobs.logs.log_files import open_log, rotate_in_place
from jobs.monitoring.listen_address import VARIABLE, ListenAddress
from jobs.services.data_folder_errors import named_by_its_setting
from jobs.settings import Settings

STOP_S = 30
LONGEST_PAUSE_S = 60.0
SETTLED_S = 60.0
"""A process that lives this long is considered to have started successfully."""


@dataclass
class Child:
    """A process that is restarted when it dies; `peak_bytes` is its peak memory, `peak_child_bytes` its children's.

    It is restarted at once the first time, then after pauses that double from one second to a minute.
    """

    role: str
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float | None = None
    pause_s: float = 0.0
    peak_bytes: int = 0
    peak_child_bytes: int = 0

    def start(self) -> None:
        """Start it in its own session, so that Ctrl-C doesn't reach it; it stops when this process is gone."""
        command = [sys.executable, "-m", self.role, "--parent", str(os.getpid())]
        rotate_in_place(self.log)
        with named_by_its_setting(self.log.parent):
            opened = open_log(self.log)
        with opened as log:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started = time.monotonic()
        self.due = None

    def keep_alive(self) -> None:
        """Restart it if it died and its pause is over, and keep its log small; called again and again.

        Raises ServiceError if its settings prevent it from starting.
        """
        assert self.process is not None
        rotate_in_place(self.log)
        code = self.process.poll()
        if code is None:
            self._measure()
        elif code == UsageError.exit_code:
            raise ServiceError(
                f"the {self.role} process can't start; the end of {self.log}:\n{tail(self.log)}"
            )
        elif self.due is None:
            self._plan_restart(code)
        elif time.monotonic() >= self.due:
            self.start()

    def _plan_restart(self, code: int) -> None:
        now = time.monotonic()
        if now - self.started >= SETTLED_S:
            self.pause_s = 0.0
        if self.pause_s:
            note(
                f"the {self.role} process has ended again (exit code {code}, see {self.log}): "
                f"it is started anew in {self.pause_s:.0f} s"
            )
        self.due = now + self.pause_s
        self.pause_s = min(max(1.0, 2 * self.pause_s), LONGEST_PAUSE_S)

    @property
    def trouble(self) -> str | None:
        """A message about a process that has died repeatedly and hasn't run for long since, or None."""
        if self.pause_s < 2 or (self.due is None and time.monotonic() - self.started >= SETTLED_S):
            return None
        return (
            f"the {self.role} process ends again and again, and is started after longer and longer pauses, up to "
            f"{LONGEST_PAUSE_S:.0f} s: see {self.log}"
        )

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, until: float) -> None:
        """Wait for its end; on timeout, kill it and its children."""
        assert self.process is not None
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _measure(self) -> None:
        assert self.process is not None
        try:
            parent = psutil.Process(self.process.pid)
            self.peak_bytes = max(self.peak_bytes, parent.memory_info().rss)
            for child in parent.children(recursive=True):
                self.peak_child_bytes = max(self.peak_child_bytes, child.memory_info().rss)
        except psutil.Error:
            return


@dataclass
class ProcessGroup:
    """The processes of one `run` or `up`."""

    children: list[Child] = field(default_factory=list)

    def keep_alive(self) -> None:
        """Restart the processes that died."""
        for child in self.children:
            child.keep_alive()

    def slowed(self) -> list[str]:
        """Return messages about the processes that are restarted with growing pauses."""
        return [trouble for child in self.children if (trouble := child.trouble)]

    def peaks(self) -> dict[str, int]:
        """Return the peak memory (resident bytes) of the workers' parent processes and of their children."""
        workers = [child for child in self.children if child.role == "worker"]
        return {
            "parent": max((child.peak_bytes for child in workers), default=0),
            "child": max((child.peak_child_bytes for child in workers), default=0),
        }


@contextmanager
def group(settings: Settings, workers: int) -> Iterator[ProcessGroup]:
    """Run a scheduler and `workers` workers with configured settings; stop them at the end of the block within 30 s."""
    environment = settings.environment() | _fair_share(workers)
    names = ["scheduler"] + [f"worker-{number}" for number in range(1, workers + 1)]
    members = [
        Child(
            name.partition("-")[0],
            settings.logs_path / f"{name}.log",
            environment | _metrics_address(settings, number),
        )
        for number, name in enumerate(names)
    ]
    started: list[Child] = []
    try:
        for member in members:
            member.start()
            started.append(member)
        yield ProcessGroup(members)
    finally:
        _stop(started)


def _fair_share(workers: int) -> dict[str, str]:
    """Divide the CPU cores among several workers that render on the CPU, unless the user has set OMP_NUM_THREADS."""
    if workers < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


def _metrics_address(settings: Settings, number: int) -> dict[str, str]:
    """Give each process a port of its own: the scheduler that of the settings, workers those that follow."""
    if settings.metrics_address is None:
        return {}
    try:
        return {VARIABLE: str(ListenAddress.parse(settings.metrics_address).moved(number))}
    except ValueError:
        raise UsageError(f"{VARIABLE}: there is no port left for process {number + 1}") from None


def _stop(children: list[Child]) -> None:
    for child in children:
        child.ask_to_stop()
    until = time.monotonic() + STOP_S
    for child in children:
        child.wait(until)


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
