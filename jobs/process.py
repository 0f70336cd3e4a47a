"""How our long-running processes begin and end."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import NightmillError


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; the process is expected to end soon after."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def stop_with_parent(parent: int | None) -> None:
    """Send ourselves SIGTERM when process `parent`, which started us, is gone; None: live on."""
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent-watch").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def work_offline() -> None:
    """Let nothing in this process and its children reach a hub of models; to be called before its client's import."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def start_logging(level: str) -> None:
    """Plain lines to stderr with time and process."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s", force=True
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with the words of an error that is meant for people instead of with a traceback."""
    try:
        yield
    except NightmillError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
