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

from console.process_control.peak_memory import PeakMemory
from console.terminal.output import note
from jobs.errors import ServiceError, UsageError
from jobs.logs.log_files import open_log, rotate_in_place
from jobs.monitoring.listen_address import VARIABLE, ListenAddress
from jobs.services.data_folder_errors import named_by_its_setting
from jobs.settings import Settings

STOP_S = 30
SPARE_S = 15.0
"""What a worker may take to stop beyond the time in which it may still deliver images."""
LONGEST_PAUSE_S = 60.0
SETTLED_S = 60.0
"""A process that lives this long is considered to have started successfully."""


@dataclass
class Child:
    """A process that is restarted when it dies, unless it `is_leaving`; `number` is a worker's, 0 the scheduler's.

    It is restarted at once the first time, then after pauses that double from one second to a minute.
    """

    role: str
    log: Path
    environment: dict[str, str]
    number: int = 0
    grace_s: float = STOP_S
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float | None = None
    pause_s: float = 0.0
    stop_by: float | None = None
    is_leaving: bool = False
    has_run: bool = False
    """Whether it was restarted on request: its settings didn't prevent it from starting before."""

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
        self.due = self.stop_by = None

    def keep_alive(self) -> None:
        """Restart it if it died and its pause is over, and keep its log small; called again and again.

        Raises ServiceError if its settings prevent it from starting.
        """
        assert self.process is not None
        rotate_in_place(self.log)
        code = self.process.poll()
        if self.stop_by is not None:
            self._go_on_stopping(code)
        elif code is None:
            return
        elif code == UsageError.exit_code and not self.has_run:
            raise ServiceError(
                f"the {self.role} process can't start; the end of {self.log}:\n{tail(self.log)}"
            )
        elif self.due is None:
            self._plan_restart(code)
        elif time.monotonic() >= self.due:
            self.start()

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop, or to stop and start anew, and has not ended yet."""
        return self.stop_by is not None

    def restart(self) -> None:
        """Ask it to stop; `keep_alive` starts it anew once it has ended."""
        self.ask_to_stop()
        self.pause_s, self.due = 0.0, None
        self.stop_by = time.monotonic() + self.grace_s

    def leave(self) -> None:
        """Ask it to stop for good."""
        self.is_leaving = True
        self.restart()

    def has_left(self) -> bool:
        """Whether it has stopped for good."""
        return self.is_leaving and (self.process is None or self.process.poll() is not None)

    def _go_on_stopping(self, code: int | None) -> None:
        assert self.process is not None
        assert self.stop_by is not None
        if code is None and time.monotonic() >= self.stop_by:
            os.killpg(self.process.pid, signal.SIGKILL)
        elif code is not None and not self.is_leaving:
            self.has_run = True
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


@dataclass
class ProcessGroup:
    """The processes of one `run` or `up`: a scheduler and so many workers."""

    settings: Settings
    workers: int
    children: list[Child] = field(default_factory=list)
    memory: PeakMemory = field(default_factory=PeakMemory)

    def start(self) -> None:
        """Start a scheduler and the workers."""
        for child in [self._child(number) for number in range(self.workers + 1)]:
            self._add(child)

    def keep_alive(self) -> None:
        """Restart the processes that died."""
        for child in self.children:
            child.keep_alive()
        self.children = [child for child in self.children if not child.has_left()]
        self.memory.look(self.worker_pids())

    def resize(self, workers: int) -> None:
        """Start so many more workers, or ask the last ones to stop. Raises UsageError if there is no port for one."""
        before, self.workers = self.workers, workers
        there = {child.number for child in self.children if not child.is_leaving}
        try:
            new = [self._child(number) for number in range(1, workers + 1) if number not in there]
        except UsageError:
            self.workers = before
            raise
        for child in self.children:
            if child.number > workers and not child.is_leaving:
                child.leave()
        for child in new:
            self._add(child)

    def is_changing(self) -> bool:
        """Whether a worker that is too many hasn't ended yet."""
        return any(child.is_leaving for child in self.children)

    def worker_pids(self) -> tuple[int, ...]:
        """Return the ids of the workers' parent processes."""
        return tuple(
            child.process.pid for child in self.children if child.number and child.process is not None
        )

    def slowed(self) -> list[str]:
        """Return messages about the processes that are restarted with growing pauses."""
        return [trouble for child in self.children if (trouble := child.trouble)]

    def stop(self) -> None:
        """Stop all processes within 30 s."""
        for child in self.children:
            child.ask_to_stop()
        until = time.monotonic() + STOP_S
        for child in self.children:
            child.wait(until)

    def _add(self, child: Child) -> None:
        child.start()
        self.children.append(child)

    def _child(self, number: int) -> Child:
        """Return the scheduler, number 0, or a worker."""
        name = f"worker-{number}" if number else "scheduler"
        environment = self.settings.environment() | _fair_share(self.workers)
        return Child(
            name.partition("-")[0],
            self.settings.logs_path / f"{name}.log",
            environment | _metrics_address(self.settings, number),
            number,
            self.settings.shutdown_grace_s + SPARE_S,
        )


@contextmanager
def group(settings: Settings, workers: int) -> Iterator[ProcessGroup]:
    """Run a scheduler and `workers` workers with configured settings; stop them at the end of the block within 30 s."""
    members = ProcessGroup(settings, workers)
    try:
        members.start()
        yield members
    finally:
        members.stop()


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


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
