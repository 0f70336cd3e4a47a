"""A stop that comes at any moment is a stop."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.process_lifecycle import SignalSafeEvent


@contextmanager
def handling(number: signal.Signals, do: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(number, lambda *_: do())
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_signal_may_set_it_whatever_its_waiter_is_at() -> None:
    for moment in range(200):
        latch = SignalSafeEvent()
        with handling(signal.SIGVTALRM, latch.set):
            signal.setitimer(signal.ITIMER_VIRTUAL, 1e-5 * (1 + moment))
            while not latch.is_set():
                latch.wait(0)
        assert latch.wait(0), moment


def test_who_waits_is_told_at_once_and_all_are() -> None:
    latch = SignalSafeEvent()
    assert not latch.wait(0.01)
    told: list[bool] = []
    waiters = [threading.Thread(target=lambda: told.append(latch.wait(30))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    latch.set()
    latch.set()
    for waiter in waiters:
        waiter.join(150)
    assert told == [True] * 3
    assert latch.wait(-1)


HANGUP = """
import os, signal
from jobs.process_lifecycle import outlive_hangup
outlive_hangup()
os.kill(os.getpid(), signal.SIGHUP)
print("goes on", flush=True)
"""


def after_hangup(stdin: int) -> tuple[int, str]:
    """The exit code of a process that gets SIGHUP, and what it printed after it."""
    ended = subprocess.run(
        [sys.executable, "-c", HANGUP], stdin=stdin, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout


def test_a_hangup_stops_only_what_runs_in_a_terminal() -> None:
    assert after_hangup(subprocess.DEVNULL) == (0, "goes on\n")
    terminal, end = pty.openpty()
    try:
        assert after_hangup(end) == (-signal.SIGTERM, "")
    finally:
        os.close(terminal)
        os.close(end)
