"""The private PostgreSQL and Redis of a data folder: real servers on unix sockets, started when first needed.

Every process that uses them is listed in `services.json`; the last one to end stops them.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock
from pydantic import SecretStr

from jobs.services.data_folder_errors import named_by_its_setting
from jobs.services.postgres import close_folder, start_postgres, stop_postgres
from jobs.services.redis import start_redis, stop_redis
from jobs.settings import Settings


@dataclass
class _Users:
    """The processes that use the services: ids with start times, so that a reused id doesn't count."""

    running: list[tuple[int, float]] = field(default_factory=list)


@contextmanager
def services(settings: Settings) -> Iterator[Settings]:
    """Start private servers for the URLs that are not set, and yield the settings with all URLs set.

    Raises ServiceError if a server can't start.
    """
    if settings.database_url and settings.broker_url:
        yield settings
        return
    with _locked(settings.data_dir):
        _note(settings.data_dir, joined=True)
        try:
            updates = _start(settings) | _permissions(settings)
        except BaseException:
            with suppress(Exception):  # the error of the start is raised, not one of the clean-up
                _leave(settings)
            raise
    try:
        yield settings.model_copy(update=updates)
    finally:
        with _locked(settings.data_dir):
            _leave(settings)


def _permissions(settings: Settings) -> dict[str, object]:
    """Whoever submits to a private PostgreSQL is the user of its scheduler, and may have it run commands."""
    is_open = settings.database_url is None and settings.run_commands == "auto"
    return {"run_commands": "on"} if is_open else {}


def stop_services(settings: Settings) -> list[int]:
    """Stop the private servers unless other processes use them; returns the ids of those processes."""
    with _locked(settings.data_dir):
        return [pid for pid, _ in _leave(settings).running]


def _leave(settings: Settings) -> _Users:
    """Remove this process from the users, and stop the servers if no others are left; returns the others."""
    users = _note(settings.data_dir, joined=False)
    if not users.running:
        _stop(settings)
    return users


def _start(settings: Settings) -> dict[str, SecretStr]:
    urls = {}
    if not settings.database_url:
        urls["database_url"] = SecretStr(start_postgres(settings.data_dir / "postgres"))
    if not settings.broker_url:
        urls["broker_url"] = SecretStr(start_redis(settings.data_dir / "redis"))
    return urls


def _stop(settings: Settings) -> None:
    if not settings.broker_url:
        stop_redis(settings.data_dir / "redis")
    if not settings.database_url:
        stop_postgres(settings.data_dir / "postgres")


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    lock = FileLock(data_dir / "services.lock", fallback_to_soft=False)
    with named_by_its_setting(data_dir):
        close_folder(data_dir)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _note(data_dir: Path, *, joined: bool) -> _Users:
    """Add this process to the list of users, or remove it; drops processes that have died."""
    path = data_dir / "services.json"
    users = _read(path)
    own = os.getpid()
    users.running = [user for user in users.running if user[0] != own and _is_alive(*user)]
    if joined:
        users.running.append((own, psutil.Process(own).create_time()))
    path.write_text(json.dumps(asdict(users)))
    return users


def _read(path: Path) -> _Users:
    try:
        content = json.loads(path.read_text())
        return _Users([(pid, since) for pid, since in content["running"]])
    except (OSError, ValueError, KeyError, TypeError):
        return _Users()


def _is_alive(pid: int, since: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - since) < 1)
    except psutil.Error:
        return False
