"""Stop a command in the same way on Ctrl-C, SIGTERM and a closed terminal, together with what it started."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
    """Raise Stopped in place of an error that a stop caused, such as the driver's error of an interrupted query.

    Some libraries raise errors of their own that don't name their cause, as pydantic does while it builds a model.
    """
    _raised.clear()
    try:
        yield
    except Exception:
        if _raised:
            raise _raised[-1] from None
        raise
    finally:
        _raised.clear()  # what was raised keeps alive what it interrupted, such as a connection in the making


_raised: list[Stopped] = []
"""What the signal handler has raised in the current command; an error that follows is taken for its consequence."""


def raise_stopped(number: int, _: FrameType | None) -> None:
    """Signal handler: raise Stopped."""
    _raised.append(Stopped(number))
    raise _raised[-1]


def _again_if_stopped(failed: "sys.UnraisableHookArgs") -> None:
    """Send the signal again if the exception was lost, as in a callback of the garbage collector."""
    if isinstance(failed.exc_value, Stopped):
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), failed.exc_value.number)).start()
    else:
        sys.__unraisablehook__(failed)
