"""Paths of unix sockets, which may have no more than about a hundred bytes."""

import hashlib
import os
import tempfile
from pathlib import Path

from jobs.errors import ServiceError

LONGEST_NAME = len("/0123456789abcdef/.s.PGSQL.5432")
SOCKET_PATH_LIMIT = 100  # of the 107 bytes that Linux allows, 103 on macOS


def socket_path(wanted: Path) -> Path:
    """Return `wanted`, or a path in a private temporary folder if it is too long for a socket."""
    if len(os.fsencode(wanted)) <= SOCKET_PATH_LIMIT:
        return wanted
    return own_temporary_folder() / f"{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]}.sock"


def own_temporary_folder() -> Path:
    """Return a private folder of this user in the temporary directory; ServiceError if it belongs to another user.

    Its mode is 0700, for root 0711: root's PostgreSQL runs as another user and must remove its socket when it ends.
    """
    folder = Path(tempfile.gettempdir()) / f"nightmill-{os.geteuid()}"
    if len(os.fsencode(folder)) > SOCKET_PATH_LIMIT - LONGEST_NAME:
        folder = Path("/tmp") / folder.name  # noqa: S108 - the folder is checked to be ours below
    mode = 0o711 if os.geteuid() == 0 else 0o700
    folder.mkdir(mode=mode, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise ServiceError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    folder.chmod(mode)
    return folder
