"""Ctrl-C, SIGTERM and a closed terminal all stop a command in the same way: what it started ends with it."""

import signal
from types import FrameType


class Stopped(BaseException):
    """A signal asked the command to stop; the blocks that it is in end in order, as they do for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Raise Stopped in the main thread at SIGINT, SIGTERM and SIGHUP, except for those that are to be ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)
