"""How our long-running processes begin and end."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

from jobs.plain_text import visible, without_secrets


class SignalSafeEvent:
    """An event that a signal's handler may set; `threading.Event` deadlocks where one interrupts its `wait`."""

    def __init__(self) -> None:
        self._is_set = False
        self._tokens: SimpleQueue[None] = SimpleQueue()  # the one queue that handlers may put into

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Set it for ever, from any thread."""
        self._is_set = True
        self._tokens.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, `timeout_s` seconds at most; whether it is."""
        with suppress(Empty):
            self._tokens.get(timeout=max(0.0, timeout_s))
            self._tokens.put(None)  # for whoever else waits
        return self._is_set


def stop_on_signals() -> SignalSafeEvent:
    """What SIGTERM and SIGINT set; the process is expected to end soon after."""
    stopping = SignalSafeEvent()
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


def open_log(path: Path) -> BinaryIO:
    """A log to append to, in a folder, which nobody else may read: logs tell of prompts and hosts."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid == os.geteuid():
        path.parent.chmod(0o700)
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.fstat(number).st_uid == os.geteuid():
        os.fchmod(number, 0o600)
    return os.fdopen(number, "ab")


class _PlainFormatter(logging.Formatter):
    """Lines without passwords and without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """As logging does it, then cleaned, tracebacks included."""
        return visible(without_secrets(super().format(record)))


def start_logging(level: str) -> None:
    """Plain lines to stderr with time and process."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
