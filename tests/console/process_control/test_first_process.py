"""`nightmill worker` and `scheduler` as the first process of a container: a SIGTERM is never lost, whenever it comes.

The kernel gives a first process only the signals that it has handlers for.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.settings import Settings

GRACE_S = 20

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a process namespace")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["worker", "scheduler"])
@pytest.mark.parametrize("after_s", [0.4, 0.6, 0.8, 1.2, 2.0])
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
    time.sleep(after_s)
    os.kill(first_process(started.pid), signal.SIGTERM)
    try:
        said = started.communicate(timeout=GRACE_S)[0]
    finally:
        started.kill()
    assert (started.returncode in (0, 143), "Traceback" in said) == (True, False), said


def first_process(unshared: int) -> int:
    """The process that `unshare` started, by its id here."""
    return int(Path(f"/proc/{unshared}/task/{unshared}/children").read_text().split()[0])
