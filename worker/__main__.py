"""`python -m worker`: a Celery worker with one child process per device."""

import argparse
import logging
import os
import shutil
import signal
import socket
import subprocess
import warnings
from contextlib import suppress
from typing import Any

from celery.signals import celeryd_after_setup, worker_shutting_down

from jobs.database import check_reachable, connect
from jobs.embedded import services
from jobs.errors import UsageError
from jobs.process import plain_errors, start_logging, stop_with_parent, work_offline
from jobs.settings import Settings, load_settings
from models.errors import ModelError
from models.prompt_terms import PromptTerms
from worker.app import build_app

log = logging.getLogger(__name__)


def main() -> None:
    """Settings come from NIGHTMILL_* in the environment."""
    arguments = argparse.ArgumentParser(prog="nightmill worker", description=main.__doc__)
    arguments.add_argument("--parent", type=int, help="stop when this process is gone")
    options = arguments.parse_args()
    work_offline()
    settings = load_settings()
    start_logging(settings.log_level)
    stop_with_parent(options.parent)
    with services(settings) as configured:
        _check(configured)
        os.environ.update(configured.environment())
        # Threads that spin while they wait make two renders on the same cores tens of times slower than one.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        _serve(configured)


def device_count(device: str) -> int:
    """How many children to run: one a GPU for `auto` and `cuda`, else one. Asks the driver, not CUDA."""
    program = shutil.which("nvidia-smi")
    if device not in ("auto", "cuda") or program is None:
        return 1
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return len(visible.split(","))
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return max(1, sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))


def _check(settings: Settings) -> None:
    """What a child would stumble over, said before there is one."""
    try:
        PromptTerms.load(settings.prompt_terms)
    except ModelError as error:
        raise UsageError(str(error)) from None
    engine = connect(settings.database)
    check_reachable(engine)
    engine.dispose()


def _serve(settings: Settings) -> None:
    # Celery warns root of pickled messages; ours are JSON only.
    warnings.filterwarnings("ignore", message=".*superuser privileges")
    app = build_app(settings)
    workers: list[Any] = []
    celeryd_after_setup.connect(lambda instance, **_: workers.append(instance), weak=False)
    worker_shutting_down.connect(lambda **_: _ask_children_to_stop(workers), weak=False)
    worker = app.Worker(
        hostname=f"nightmill-{os.getpid()}@{socket.gethostname()}",
        concurrency=device_count(settings.device),
        loglevel=settings.log_level,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def _ask_children_to_stop(workers: list[Any]) -> None:
    for worker in workers:
        for child in worker.pool._pool._pool if worker.pool else []:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)


if __name__ == "__main__":
    with plain_errors():
        main()
