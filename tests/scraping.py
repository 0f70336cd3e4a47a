"""Read what a process serves over HTTP, as Prometheus and a probe do."""

import socket
import urllib.error
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Page:
    """An answer: its status and body."""

    status: int
    body: str


def get(address: str, path: str, *, timeout: float = 10) -> Page:
    """The answer to GET; URLError if there is none."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=timeout) as answer:
            return Page(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        return Page(error.code, error.read().decode())


def listens(address: str) -> bool:
    """Whether something answers there."""
    try:
        get(address, "/healthz")
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def parsed(text: str) -> dict[str, float]:
    """Samples by name and label values in the order of the labels' names, as in `nightmill_jobs queued`."""
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(address: str) -> dict[str, float]:
    """What `/metrics` says."""
    return parsed(get(address, "/metrics").body)


def free_address() -> str:
    """An address of this machine whose port, and the one after it, were free a moment ago."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return f"127.0.0.1:{port}"
