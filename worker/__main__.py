"""`python -m worker`: a Celery worker with one child process per device."""

import argparse
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery.signals import celeryd_after_setup, worker_ready, worker_shutting_down

from jobs.db.engine import await_reachable, connect
from jobs.errors import UsageError
from jobs.logs.start_logging import start_logging
from jobs.monitoring.systemd_notify import SystemdNotifier
from jobs.process_lifecycle import exit_on_sigterm, outlive_hangup, stop_with_parent, work_offline
from jobs.queue.worker_pools import join_pool
from jobs.services.embedded import services
from jobs.settings import Settings, load_settings
from jobs.signing_identity.find_identity_file import read_signing_identity
from jobs.unexpected_errors import plain_errors
from models.assess.prompt_filter import PromptTerms
from models.catalogue.catalogue import Catalogue
from models.errors import ModelError, SigningIdentityError
from models.optional_packages import require
from models.provenance.signing_identity import SigningIdentity
from worker.celery_app import build_app, watch_main_loop
from worker.liveness.end_conditions import STOP_S, EndOfWorker
from worker.liveness.progress_heartbeat import FOLDER
from worker.liveness.runtime_folder import shared_folder
from worker.liveness.watchdog import Watchdog
from worker.monitoring.parent_routes import ParentMonitoring

log = logging.getLogger("worker")


def main() -> None:
    """Settings come from NIGHTMILL_* in the environment."""
    exit_on_sigterm()  # until Celery stops the worker in order
    arguments = argparse.ArgumentParser(prog="nightmill worker", description=main.__doc__)
    arguments.add_argument("--parent", type=int, help="stop when this process is gone")
    options = arguments.parse_args()
    work_offline()
    settings = load_settings()
    start_logging(settings.log_level, settings.log_format)
    outlive_hangup()
    notifier = SystemdNotifier.from_environment(is_supervised=options.parent is not None)
    stop_with_parent(options.parent)
    with services(settings) as configured:
        monitoring = ParentMonitoring(configured, device_count(settings.device))
        monitoring.serve(is_supervised=options.parent is not None)
        _check(configured, monitoring)
        os.environ.update(_with_signing_decided(configured).environment())
        # Spinning OpenMP threads make two renders that share cores tens of times slower than one.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        _serve(configured, monitoring, notifier)


def device_count(device: str) -> int:
    """Return the number of child processes: one per GPU for `auto` and `cuda`, else one. Asks the driver, not CUDA."""
    program = shutil.which("nvidia-smi")
    if device not in ("auto", "cuda") or program is None:
        return 1
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return len(visible.split(","))
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return max(1, sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))


def _check(settings: Settings, monitoring: ParentMonitoring) -> None:
    """Check before the fork whatever would make every child fail: packages, prompt filter's terms, pool, PostgreSQL."""
    try:
        require("worker")
        if settings.traces == "on":
            require("otel", "NIGHTMILL_TRACES needs")
        PromptTerms.load(settings.prompt_terms)
        catalogue = Catalogue.load(settings.models_path)
        for model in settings.pool_models:
            catalogue.get(model)
    except ModelError as error:
        raise UsageError(str(error)) from None
    engine = connect(settings.database)
    await_reachable(engine, settings.database_wait_s, log.warning, pause=monitoring.pause)
    join_pool(engine, settings.pool, settings.pool_models, settings.claim)
    engine.dispose()


def _with_signing_decided(settings: Settings) -> Settings:
    """Return the settings for children, which must not leave files unsigned because the identity is gone meanwhile.

    Raises UsageError if files are to be signed by an identity that is expired or that readers refuse.
    """
    found = read_signing_identity(settings)
    try:
        if found is not None:
            SigningIdentity.parse_valid(found.pem)
    except SigningIdentityError as error:
        raise UsageError(f"{found.place if found else ''}: {error}") from None
    wanted = "sidecar" if settings.c2pa == "sidecar" else "on"
    return settings.model_copy(update={"c2pa": wanted if found else "off"})


def _serve(settings: Settings, monitoring: ParentMonitoring, notifier: SystemdNotifier) -> None:
    # Celery warns about pickle when run as root; this application only accepts JSON.
    warnings.filterwarnings("ignore", message=".*superuser privileges")
    with shared_folder() as folder, monitoring.receiving(folder):
        os.environ[FOLDER] = str(folder)
        app = build_app(settings)
        watch_main_loop(app, monitoring.liveness.beat)
        workers: list[Any] = []
        monitoring.processes = lambda: _processes(workers)
        watchdog = Watchdog(folder, lambda: _children(workers), monitoring.look)
        end = EndOfWorker(settings, folder, lambda: _children(workers))
        celeryd_after_setup.connect(lambda instance, **_: workers.append(instance), weak=False)
        worker_shutting_down.connect(lambda **_: _stop_children(workers, watchdog, settings), weak=False)
        worker_shutting_down.connect(lambda **_: monitoring.stop(), weak=False)
        worker_shutting_down.connect(lambda **_: notifier.stopping(), weak=False)
        worker_ready.connect(
            lambda **_: notifier.start(monitoring.liveness, lambda: _have_begun(folder, workers)), weak=False
        )
        worker = app.Worker(
            hostname=f"nightmill-{os.getpid()}@{socket.gethostname()}",
            concurrency=device_count(settings.device),
            loglevel=settings.log_level,
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            quiet=True,
        )
        watchdog.start()
        end.start()
        worker.start()
        if worker.exitcode and not monitoring.is_stopping:
            sys.exit(worker.exitcode)  # after an error that Celery logs as unrecoverable


def _stop_children(workers: list[Any], watchdog: Watchdog, settings: Settings) -> None:
    watchdog.stop_within(settings.shutdown_grace_s + STOP_S)
    for pid in _children(workers):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _have_begun(folder: Path, workers: list[Any]) -> bool:
    """Whether there are children, and each has made its record of heartbeats: wake-ups can be followed."""
    children = _children(workers)
    return bool(children) and all((folder / str(pid)).exists() for pid in children)


def _children(workers: list[Any]) -> list[int]:
    """Return the process ids of the pool's children."""
    return [child.pid for child in _processes(workers) if child.pid]


def _processes(workers: list[Any]) -> list[Any]:
    """Return the pool's children; empty before the pool exists and after it is gone."""
    pools = [getattr(worker.pool, "_pool", None) for worker in workers]
    return [child for pool in pools if pool is not None for child in list(pool._pool)]


if __name__ == "__main__":
    with plain_errors():
        main()
