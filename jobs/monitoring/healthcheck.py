"""`python -m jobs.monitoring.healthcheck`: exit code 0 if the process at NIGHTMILL_METRICS_ADDRESS is healthy, else 1.

For containers, which run it every few seconds: it imports little and reads the one variable, not all settings.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

from jobs.monitoring.listen_address import VARIABLE, ListenAddress

TIMEOUT_S = 4
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on


def main() -> None:
    """Ask `/healthz`, print the answer and end; where nothing is to listen, there is nothing to ask."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        print(f"{VARIABLE} isn't set: nothing to ask")
        return
    try:
        answer = ask(ListenAddress.parse(text))
    except ValueError as error:
        sys.exit(f"{VARIABLE}: {error}")
    except (OSError, HTTPException) as error:
        sys.exit(f"{text} doesn't answer: {error}")
    if answer:
        sys.exit(answer)
    print("healthy")


def ask(address: ListenAddress) -> str:
    """Return what the process is sick of, or "" if it is healthy."""
    connection = HTTPConnection(_LOOPBACK.get(address.host, address.host), address.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        said = response.read(1000).decode(errors="replace").strip()
        return "" if response.status == 200 else f"{response.status}: {said}"
    finally:
        connection.close()


if __name__ == "__main__":
    main()
