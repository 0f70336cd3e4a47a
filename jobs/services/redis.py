"""The private Redis, Valkey or built-in server for wake-up messages, on a unix socket, without persistence."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from jobs.errors import ServiceError
from jobs.services.broker_program import BUILT_IN, broker_program
from jobs.services.sockets import socket_path


def start_redis(folder: Path) -> str:
    """Start the server of this folder unless it is running, and return its URL; ServiceError if it can't start.

    A running server that doesn't answer is left to recover: a second would take over its socket, and the first would
    never be stopped.
    """
    socket = socket_path(folder / "redis.sock")
    url = f"redis+socket://{quote(str(socket))}"
    if _answers(socket) or _running(folder):
        return url
    try:
        _launch_redis(folder, socket)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServiceError(
            f"can't start the private Redis in {folder}: {error}; see {folder / 'log'}, "
            "or set NIGHTMILL_BROKER_URL to a server of your own"
        ) from error
    _await_redis(socket, folder / "log")
    return url


def _launch_redis(folder: Path, socket: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "pidfile": str(folder / "redis.pid"),
        "daemonize": "yes",
        "logfile": str(folder / "log"),
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    subprocess.run(
        [*broker_program().command, *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True
    )


def _await_redis(socket: Path, log: Path) -> None:
    deadline = time.monotonic() + 10
    while not _answers(socket):
        if time.monotonic() > deadline:
            raise ServiceError(f"the private Redis did not answer within 10 s; see {log}")
        time.sleep(0.02)


def _answers(socket: Path) -> bool:
    import redis  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    if not socket.exists():
        return False
    once = Retry(NoBackoff(), 0)
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=1, retry=once) as client:
        try:
            client.ping()
            return True
        except redis.RedisError:
            return False


def stop_redis(folder: Path) -> None:
    """Stop the server of this folder if it is running."""
    if process := _running(folder):
        with suppress(psutil.Error):
            process.terminate()
            _await_end(process)


def _running(folder: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(int((folder / "redis.pid").read_text()))
        command = process.cmdline()
        is_redis = BUILT_IN in command or any("redis" in part or "valkey" in part for part in command[:1])
        is_ours = is_redis and Path(process.cwd()) == folder.resolve()
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, psutil.Error):
        return None


def _await_end(process: psutil.Process) -> None:
    """Wait at most 10 s for the process to end. A zombie counts as ended, as process 1 may never reap it."""
    deadline = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
