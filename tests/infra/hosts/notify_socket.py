"""The socket on which systemd listens to services of Type=notify."""

import select
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 60.0


class NotifySocket:
    """A datagram socket at a path, or an abstract one of a name that begins with @."""

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)

    def __enter__(self) -> Self:
        self._socket.bind(self.address.replace("@", "\0", 1) if self.address[0] == "@" else self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def variables(self, *, watchdog_s: float | None = None) -> dict[str, str]:
        """What systemd gives to the service's processes."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.address} | watchdog

    def next(self) -> str:
        """The next message."""
        return self._socket.recv(4096).decode()

    def read_until(self, message: str) -> None:
        """Read messages until this one comes."""
        while self.next() != message:
            pass

    def has_message(self) -> bool:
        """Whether there is a message that wasn't read."""
        return bool(select.select([self._socket], [], [], 0)[0])
