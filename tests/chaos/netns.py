"""Other hosts: network namespaces with cables to this one, which can be pulled, and relays to our sockets."""

import os
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SERVICES = ("postgres", "redis", "s3")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def why_not() -> str:
    """Why there can be no second host here, "" if there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and ip (iproute2)"
    name = f"nm{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "this system makes no network namespaces"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


@dataclass(frozen=True)
class Slowness:
    """What a bad network does to each piece of data: `delay_s` later, and `lost_s` more where a packet was lost."""

    delay_s: float = 0.0
    lost: float = 0.0
    lost_s: float = 0.0

    def wait(self) -> None:
        """Wait as long as one piece takes."""
        time.sleep(self.delay_s + (self.lost_s if random.random() < self.lost else 0.0))


NONE = Slowness()
SLOW = Slowness(0.2, 0.02, 0.6)
"""200 ms and 2 % loss, as `tc netem` does it, which many kernels lack; a lost packet is sent again after 600 ms."""


@dataclass(frozen=True)
class Host:
    """The other host: `name` of its namespace, and our address for each service as it sees it."""

    name: str
    addresses: Mapping[str, str]

    def lose(self, service: str) -> None:
        """Let what it sends to a service go astray; everything else is reached."""
        _ip("netns", "exec", self.name, "ip", "route", "add", "blackhole", f"{self.addresses[service]}/32")

    def find(self, service: str) -> None:
        """Let it reach the service again."""
        _ip("netns", "exec", self.name, "ip", "route", "del", "blackhole", f"{self.addresses[service]}/32")

    def command(self, *words: str) -> list[str]:
        """A command that runs there."""
        return ["ip", "netns", "exec", self.name, *words]

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and nobody is told."""
        _ip("link", "set", f"{self.name}a", "down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip("link", "set", f"{self.name}a", "up")


@contextmanager
def other_host() -> Iterator[Host]:
    """A host that is there within the block."""
    token = secrets.token_bytes(2)
    name, net = f"nm{token.hex()}", f"10.{200 + token[0] % 50}.{token[1]}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        addresses = {service: f"{net}.{number}" for number, service in enumerate(SERVICES, 1)}
        for address in addresses.values():
            _ip("addr", "add", f"{address}/29", "dev", f"{name}a")
        _ip("link", "set", f"{name}a", "up")
        _ip("netns", "exec", name, "ip", "addr", "add", f"{net}.6/29", "dev", f"{name}b")
        _ip("netns", "exec", name, "ip", "link", "set", f"{name}b", "up")
        _ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
        yield Host(name, addresses)
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def relay(address: str, target: Path | tuple[str, int], slowness: Slowness = NONE) -> Iterator[int]:
    """A TCP port of that address behind which a unix socket, or another port, answers; it goes with the block."""
    ends: list[socket.socket] = []
    with socket.create_server((address, 0)) as server:
        accepting = threading.Thread(target=_accept, args=(server, target, ends, slowness), daemon=True)
        accepting.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for one in ends:
        _shut(one)
        one.close()


def _accept(
    server: socket.socket, target: Path | tuple[str, int], ends: list[socket.socket], slowness: Slowness
) -> None:
    with suppress(OSError):
        while True:
            near = server.accept()[0]
            ends.append(near)
            far = socket.socket(socket.AF_UNIX if isinstance(target, Path) else socket.AF_INET)
            ends.append(far)
            far.connect(str(target) if isinstance(target, Path) else target)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(*pair, slowness), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket, slowness: Slowness) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            slowness.wait()
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
