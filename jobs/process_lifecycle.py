"""Start and stop of long-running processes: signals, parent watch, offline mode."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

_STOP = (signal.SIGTERM, signal.SIGINT)


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
    for number in _STOP:
        signal.signal(number, lambda *_: stopping.set())
    deliver_stop_signals()
    return stopping


def hold_stop_signals() -> None:
    """Keep SIGTERM and SIGINT pending, across an exec too, until `deliver_stop_signals`.

    The first process of a container would lose a SIGTERM that comes before its handler is installed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)


def deliver_stop_signals() -> None:
    """Let SIGTERM and SIGINT come again, and those that were held; call when their handlers are installed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)


def exit_on_sigterm() -> None:
    """End this process at once with exit code 0 at a SIGTERM, until another handler is installed.

    For a process that holds nothing yet. An exit that is raised would be lost in some places, such as callbacks of the
    garbage collector.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    deliver_stop_signals()


def outlive_hangup() -> None:
    """Ignore SIGHUP, which rotations of logs send; of a process in a terminal it means a closed terminal, and stops it.

    Processes that are started later ignore it, too. A SIGHUP that is ignored already, as under nohup, stays so.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return
    in_terminal = os.isatty(0)
    signal.signal(signal.SIGHUP, _terminate_itself if in_terminal else signal.SIG_IGN)


def _terminate_itself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


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
