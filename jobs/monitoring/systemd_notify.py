"""Tells systemd that this service is ready, lives, and stops (sd_notify(3)); does nothing where systemd doesn't ask."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, MutableMapping
from http import HTTPStatus

from jobs.monitoring.liveness_and_readiness import Liveness

log = logging.getLogger(__name__)

SOCKET, WATCHDOG_US, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
LOOK_S = 0.5
PATIENCE_S = 2.0
_SHARE = 3
"""How often this process shows within the watchdog's time that it lives."""


class SystemdNotifier:
    """Sends READY=1 once, WATCHDOG=1 while the main loop goes on, and STOPPING=1; never raises."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """`address` is the socket's path, or `@name` for an abstract one; None for no service manager."""
        self._address = address
        self._watchdog_s = watchdog_s
        self._is_ready = self._has_started = False

    @classmethod
    def from_environment(
        cls, *, is_supervised: bool, environment: MutableMapping[str, str] = os.environ
    ) -> "SystemdNotifier":
        """Return what systemd asks this process for, and hide it from the processes that this one starts.

        A process that `nightmill up` supervises isn't the service's main process, and tells nothing.
        """
        address = environment.pop(SOCKET, None)
        usec, pid = environment.pop(WATCHDOG_US, ""), environment.pop(WATCHDOG_PID, str(os.getpid()))
        if is_supervised or not address:
            return cls(None)
        is_meant = usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid())
        return cls(address, int(usec) / 1e6 if is_meant else None)

    def start(self, liveness: Liveness, is_ready: Callable[[], bool]) -> None:
        """Tell in a background thread that the process is ready, once it is, and that it lives; does so once."""
        if self._address is not None and not self._has_started:
            self._has_started = True
            thread = threading.Thread(
                target=self._tell_forever, args=(liveness, is_ready), daemon=True, name="systemd-notify"
            )
            thread.start()

    def stopping(self) -> None:
        """Tell that the process stops; may be called where there is no service manager."""
        self._tell("STOPPING=1")

    def look(self, liveness: Liveness, is_ready: Callable[[], bool]) -> None:
        """Tell what is true now."""
        if not self._is_ready and is_ready():
            self._is_ready = True
            self._tell("READY=1")
        if self._watchdog_s is not None and liveness.check().status == HTTPStatus.OK:
            self._tell("WATCHDOG=1")

    def _tell_forever(self, liveness: Liveness, is_ready: Callable[[], bool]) -> None:
        watch_s = LOOK_S if self._watchdog_s is None else self._watchdog_s / _SHARE
        while not (self._is_ready and self._watchdog_s is None):
            self.look(liveness, is_ready)
            time.sleep(watch_s if self._is_ready else min(watch_s, LOOK_S))

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        name = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(
                    PATIENCE_S
                )  # its queue is short, and nobody is held up by who doesn't read it
                channel.sendto(message.encode(), name)
        except OSError as error:
            log.warning("can't tell systemd %s: %s", message, error.strerror or error)
