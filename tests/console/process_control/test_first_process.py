"""`nightmill worker` and `scheduler` as the first process of a container: a SIGTERM isn't lost, whenever it comes.

The kernel gives a first process only the signals that it has handlers for, or holds back: it begins with that.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.end_to_end.processes import until

GRACE_S = 60

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a process namespace")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["worker", "scheduler"])
@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.4, 0.8, 1.6])
def test_a_signal_that_comes_early_stops_it(
    role: str, after_s: float, settings: Settings, tmp_path: Path
) -> None:
    unshared = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    started = subprocess.Popen(
        [*unshared, sys.executable, "-m", "console.cli", role],
        cwd=tmp_path,
        env=settings.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: keeps_sigterm(started.pid))
    time.sleep(after_s)
    os.kill(first_process(started.pid), signal.SIGTERM)
    try:
        said = started.communicate(timeout=GRACE_S)[0]
    finally:
        started.kill()
    assert (started.returncode in (0, 143), "Traceback" in said) == (True, False), said


def keeps_sigterm(unshared: int) -> bool:
    """Whether the first process is there and has a handler for SIGTERM, or holds it back."""
    try:
        process = Path(f"/proc/{first_process(unshared)}")
        status = process.joinpath("status").read_text()
        if not process.joinpath("cmdline").read_bytes().startswith(sys.executable.encode()):
            return False  # still `unshare`, which holds signals back for a moment
    except (IndexError, OSError):
        return False
    masks = [line.split()[1] for line in status.splitlines() if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def first_process(unshared: int) -> int:
    """The process that `unshare` started, by its id here."""
    return int(Path(f"/proc/{unshared}/task/{unshared}/children").read_text().split()[0])
