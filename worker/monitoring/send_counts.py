"""A child's end of the metrics: a thread that sends what was counted to the parent. It never waits for the parent."""

import os
import socket
import threading
from pathlib import Path

from jobs.monitoring.metric_types import Sample, collect, put_back
from jobs.services.sockets import socket_path
from worker.monitoring.count_messages import MOST_SAMPLES, SOCKET, CountMessage

EVERY_S = 0.5


class CountSender:
    """Sends counts and gauges of this process twice a second while they change; what can't be sent is sent later."""

    def __init__(self, folder: Path) -> None:
        self._path = str(socket_path(folder / SOCKET))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._told: list[Sample] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send_forever, daemon=True, name="counts")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left and end the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.send()
        self._socket.close()

    def send(self) -> None:
        """Send what has changed since the last call; if the parent takes no message now, keep it."""
        counts, gauges = collect()
        if not counts and gauges == self._told:
            return
        while counts or gauges != self._told:
            message = CountMessage(os.getpid(), counts[:MOST_SAMPLES], gauges)
            try:
                self._socket.sendto(message.encoded(), self._path)
            except OSError:  # it has gone, has no room at present, or has never listened
                put_back(counts)
                return
            counts, self._told = counts[MOST_SAMPLES:], gauges

    def _send_forever(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self.send()
