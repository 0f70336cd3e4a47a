"""Stop a command in the same way on Ctrl-C, SIGTERM and a closed terminal, together with what it started."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jobs.errors import chain

_AGAIN_S = 0.05


class Stopped(BaseException):
    """A signal asked the command to stop; raised like KeyboardInterrupt, so that all blocks are left in order."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Raise Stopped in the main thread at SIGINT, SIGTERM and SIGHUP, except for signals that are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_stopped)
    sys.unraisablehook = _again_if_stopped


@contextmanager
def stopping() -> Iterator[None]:
    """Raise Stopped in place of an error that a stop caused, such as the driver's error of an interrupted query."""
    try:
        yield
    except Exception as error:
        for found in chain(error):
            if isinstance(found, Stopped):
                raise found from None
        raise


def raise_stopped(number: int, _: FrameType | None) -> None:
    """Signal handler: raise Stopped."""
    raise Stopped(number)


def _again_if_stopped(failed: "sys.UnraisableHookArgs") -> None:
    """Send the signal again if the exception was lost, as in a callback of the garbage collector."""
    if isinstance(failed.exc_value, Stopped):
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), failed.exc_value.number)).start()
    else:
        sys.__unraisablehook__(failed)
