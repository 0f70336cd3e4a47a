"""Schedulers and workers as processes of their own, kept alive by a keeper whatever kills them."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.stub import BROKEN, FOLDER, LONGEST_S, RENDERS, STEP_S
from tests.chaos.twins import TWIN
from tests.end_to_end.processes import descendants, end, kill
from tests.factories import look
from tests.paths import ROOT
from worker.lanes import worker_loop

WORKER, SCHEDULER = "tests.chaos.stub_worker", "tests.chaos.stub_scheduler"


class Mill:
    """Running processes; `twin` names the guard that they lack."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        workers: int,
        schedulers: int,
        step_s: float,
        longest_s: float,
        twin: str,
        broken: str,
    ) -> None:
        self.folder = folder
        self._environment = settings.environment() | {
            "PYTHONPATH": str(ROOT),
            FOLDER: str(folder),
            STEP_S: str(step_s),
            LONGEST_S: str(longest_s),
            TWIN: twin,
            "PYTHONFAULTHANDLER": "1",
        }
        self._roles = [SCHEDULER] * schedulers + [WORKER] * workers
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._broken = broken
        self._processes = [self._start(place) for place in range(len(self._roles))]
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="keeper")
        self._keeper.start()

    def workers(self) -> list[psutil.Popen]:
        """The parents of the workers that run now."""
        return self._of(WORKER)

    def schedulers(self) -> list[psutil.Popen]:
        """The schedulers that run now."""
        return self._of(SCHEDULER)

    def children(self) -> list[psutil.Process]:
        """The children that render, of all workers."""
        return [child for worker in self.workers() for child in rendering(worker)]

    @contextmanager
    def hands_off(self) -> Iterator[None]:
        """Within it the keeper starts nobody anew; not to be asked who runs, meanwhile."""
        with self._lock:
            yield

    def strike(self) -> str:
        """SIGKILL one process at random, children twice as often as others; says what it was, "" if none was there."""
        kinds: list[tuple[str, Callable[[], list[psutil.Process]]]] = [
            ("child", self.children),
            ("child", self.children),
            ("parent", lambda: list(self.workers())),
            ("scheduler", lambda: list(self.schedulers())),
        ]
        name, candidates = random.choice(kinds)
        victims = candidates()
        if not victims:
            return ""
        kill(random.choice(victims))
        return name

    def renders(self) -> Counter[str]:
        """How often each seed was drawn: once a picture that left the denoising loop, delivered or not."""
        path = self.folder / RENDERS
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.split()[1] for line in lines)

    def log(self) -> str:
        """What the processes have said."""
        return (self.folder / "mill.log").read_text(errors="replace")

    def close(self) -> list[int]:
        """Stop all; the exit codes, schedulers first. AssertionError where one takes over 30 s."""
        self._closing.set()
        self._keeper.join()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        return [end(process, signal.SIGCONT) for process in self._processes]

    def _of(self, role: str) -> list[psutil.Popen]:
        with self._lock:
            pairs = zip(self._roles, self._processes, strict=True)
            return [process for own, process in pairs if own == role and process.poll() is None]

    def _keep(self) -> None:
        while not self._closing.wait(0.05):
            with self._lock:
                for place, process in enumerate(self._processes):
                    if process.poll() is not None:
                        self._processes[place] = self._start(place)

    def _start(self, place: int) -> psutil.Popen:
        role = self._roles[place]
        is_broken = role == WORKER and place == self._roles.index(WORKER)
        with (self.folder / "mill.log").open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-m", role],
                env=self._environment | ({BROKEN: self._broken} if is_broken else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def mill(
    settings: Settings,
    folder: Path,
    *,
    workers: int = 2,
    schedulers: int = 1,
    step_s: float = 0.02,
    longest_s: float = worker_loop.LONGEST_S,
    twin: str = "",
    broken: str = "",
) -> Iterator[Mill]:
    """A mill that runs within the block; all its processes are gone after it, even if they don't want to.

    `longest_s` is how long a worker goes on without a new wake-up; `broken` is what is wrong with the first worker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = Mill(
        settings,
        folder,
        workers=workers,
        schedulers=schedulers,
        step_s=step_s,
        longest_s=longest_s,
        twin=twin,
        broken=broken,
    )
    try:
        yield running
    finally:
        family = [child for worker in running.workers() for child in descendants(worker)]
        try:
            running.close()
        except AssertionError:
            print(running.log()[-10_000:])
            raise
        finally:
            for member in family:
                kill(member)


def rendering(worker: psutil.Process) -> list[psutil.Process]:
    """The children of a worker that render; the rest are helpers of multiprocessing."""
    return [child for child in descendants(worker) if _is_rendering(child)]


def _is_rendering(child: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in child.cmdline())
    except psutil.Error:
        return False


def settle(engine: Engine, *, quiet_s: float) -> bool:
    """Wait until all jobs have ended: True; or until none has ended, failed or been claimed for `quiet_s` seconds."""
    before: Mapping[str, object] = {}
    since = time.monotonic()
    while time.monotonic() < since + quiet_s:
        (now,) = look(
            engine,
            "SELECT sum(attempt) AS attempts, count(*) FILTER (WHERE finished_at IS NULL) AS left FROM jobs",
        )
        if not now["left"]:
            return True
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.1)
    return False
