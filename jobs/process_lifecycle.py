"""Start and stop of long-running processes: signals, parent watch, offline mode, logging."""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

from jobs.mask_passwords_and_escape_text import visible, without_secrets


class SignalSafeEvent:
    """An event that a signal handler may set; `threading.Event` deadlocks if the handler interrupts its `wait`."""

    def __init__(self) -> None:
        self._is_set = False
        self._tokens: SimpleQueue[None] = SimpleQueue()  # the only queue with a reentrant put()

    def is_set(self) -> bool:
        """Whether the event is set."""
        return self._is_set

    def set(self) -> None:
        """Set the event permanently; safe from any thread and from signal handlers."""
        self._is_set = True
        self._tokens.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the event is set, at most `timeout_s` seconds; returns whether it is set."""
        with suppress(Empty):
            self._tokens.get(timeout=max(0.0, timeout_s))
            self._tokens.put(None)  # for other waiting threads
        return self._is_set


def stop_on_signals() -> SignalSafeEvent:
    """Install handlers for SIGTERM and SIGINT; returns the event that they set, after which the process should end."""
    stopping = SignalSafeEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def stop_with_parent(parent: int | None) -> None:
    """Send SIGTERM to this process when its parent process `parent` has ended; None disables the watch."""
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent-watch").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def work_offline() -> None:
    """Disable Hugging Face Hub access for this process and its children; call before `huggingface_hub` is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage in this block: imports drop few of their objects, and collections take a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending, with file and folder private to the owner: logs contain prompts and host names."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid == os.geteuid():
        path.parent.chmod(0o700)
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.fstat(number).st_uid == os.geteuid():
        os.fchmod(number, 0o600)
    return os.fdopen(number, "ab")


class _PlainFormatter(logging.Formatter):
    """Log formatter that masks passwords and escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as logging does, then sanitise the text, including tracebacks."""
        return visible(without_secrets(super().format(record)))


def start_logging(level: str) -> None:
    """Configure logging to stderr, each line with time and process id."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
