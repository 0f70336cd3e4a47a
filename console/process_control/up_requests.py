"""Requests of commands to the `up` that runs: another number of workers, or a restart of its processes.

Each is a file in the data folder, which `up` takes; its report (`console.process_control.background_up`) says what
became of it.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from jobs.settings import Settings

_PREFIX, _SUFFIX = "up-request-", ".json"


@dataclass(frozen=True, slots=True)
class UpRequest:
    """The wanted number of workers, None for as many as there are, and whether to restart all processes in turn."""

    id: str
    workers: int | None
    restart: bool


def ask(settings: Settings, *, workers: int | None, restart: bool) -> UpRequest:
    """Leave a request for the `up` of this data folder."""
    request = UpRequest(uuid4().hex, workers, restart)
    path = settings.data_dir / f"{_PREFIX}{time.time_ns()}-{os.getpid()}{_SUFFIX}"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(request)))
    new.replace(path)
    return request


def take(settings: Settings) -> UpRequest | None:
    """Return the oldest request and delete it; None if there is none."""
    for path in _files(settings):
        try:
            found = UpRequest(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            found = None  # not one that this version wrote
        path.unlink(missing_ok=True)
        if found is not None:
            return found
    return None


def forget(settings: Settings) -> None:
    """Delete requests that nobody took."""
    for path in _files(settings):
        path.unlink(missing_ok=True)


def _files(settings: Settings) -> list[Path]:
    return sorted(settings.data_dir.glob(f"{_PREFIX}*{_SUFFIX}"))
