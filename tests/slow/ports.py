"""TCP ports of this machine."""

import socket


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    """Whether anybody answers there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
