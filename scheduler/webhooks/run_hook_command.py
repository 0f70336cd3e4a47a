"""Run a hook's command: the message on its standard input, what it is about in its environment, in bounded time."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from typing import get_args

from pydantic import SecretStr

from jobs.settings import Settings

TIMEOUT_S = 60.0
"""Shorter than the lease of a message."""
_SAID = 500
"""Characters of the end of what a command said that are kept when it fails."""


_USED_BY_COMMANDS = ("database_url", "broker_url")
WITHHELD = frozenset(
    f"NIGHTMILL_{name.upper()}"
    for name, field in Settings.model_fields.items()
    if SecretStr in (field.annotation, *get_args(field.annotation)) and name not in _USED_BY_COMMANDS
)
"""Settings with secrets that a command has no use for; it may call `nightmill`, which needs the database."""


class CommandError(Exception):
    """The command failed; the message has its exit code and the end of what it said."""


def run_hook_command(command: str, body: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Run a command by /bin/sh and wait for it; raises CommandError unless it ends with 0 in time.

    Its processes are killed when the time is over. It gets the message's JSON on standard input, and NIGHTMILL_EVENT,
    NIGHTMILL_BATCH and NIGHTMILL_STATE in its environment, beside the scheduler's own.
    """
    message = json.loads(body)
    data = {
        name: str(message["data"].get(key) or "") for name, key in (("BATCH", "name"), ("STATE", "state"))
    }
    told = {
        "NIGHTMILL_EVENT": message["type"],
        **{f"NIGHTMILL_{name}": value for name, value in data.items()},
    }
    run_program(["/bin/sh", "-c", command], body.encode(), told, timeout_s=timeout_s)


def run_program(
    arguments: list[str], stdin: bytes, environment: dict[str, str], *, timeout_s: float = TIMEOUT_S
) -> None:
    """Run a program with a standard input and wait for it; raises CommandError unless it ends with 0 in time."""
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name not in WITHHELD} | environment,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(f"{arguments[0]}: {error.strerror}") from None
    with process:
        try:
            said, _ = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise CommandError(f"not done after {timeout_s:.0f} s, and killed") from None
    if process.returncode:
        end = " ".join(said.decode(errors="replace").split())[-_SAID:]
        raise CommandError(f"exit code {process.returncode}" + (f": {end}" if end else ""))
