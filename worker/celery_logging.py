"""Makes Celery log as nightmill does, in its processes: without handlers and forms of its own."""

import logging
import os
from typing import Any

from billiard.util import get_logger
from celery.apps import worker
from celery.signals import celeryd_after_setup, setup_logging


@setup_logging.connect
def leave_to_root(**_: Any) -> None:
    """Pass all log lines to the root logger; Celery configures nothing if this signal has a receiver."""
    processes = get_logger()
    processes.propagate = True
    processes.setLevel(logging.WARNING)


@celeryd_after_setup.connect
def leave_children_alone(**_: Any) -> None:
    """Let no child begin with a handler of its own, which Celery asks for by this variable."""
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)


# It prints "Warm shutdown" to stdout, past the logging.
worker.safe_say = lambda *_: None  # type: ignore[attr-defined]

# At SIGHUP it would stop and start this program anew, by an exec that doesn't know `-m`.
worker.install_worker_restart_handler = lambda *_, **__: None  # type: ignore[attr-defined]
worker.install_HUP_not_supported_handler = lambda *_, **__: None  # type: ignore[attr-defined]
