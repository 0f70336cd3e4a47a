"""A PostgreSQL of another version than the one that comes with nightmill, from a folder of its programs."""

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from jobs.services.postgres import SERVER_USER

BIN = "POSTGRES_BIN"
"""Environment variable: the folder with `initdb` and `postgres` of the server that tests are to use."""


def start(programs: Path, folder: Path) -> str:
    """Start the server of this folder, made if need be; returns its URL. As root it runs as another user."""
    folder.mkdir(parents=True, exist_ok=True)
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = _server_user()
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o700)
    _let_through(folder.parent)
    url = f"postgresql://postgres@/postgres?host={folder}"
    if (folder / "postmaster.pid").exists():
        return url
    if not (folder / "PG_VERSION").exists():
        command = [
            programs / "initdb",
            "-D",
            folder,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **as_user)
    _control(
        programs,
        folder,
        "start",
        "-l",
        folder / "log",
        "-o",
        f"-k {folder} -c listen_addresses=''",
        **as_user,
    )
    return url


def stop(programs: Path, folder: Path) -> None:
    """Stop the server of this folder if it is running."""
    if (folder / "postmaster.pid").exists():
        as_user = {"user": folder.stat().st_uid} if os.geteuid() == 0 else {}
        _control(programs, folder, "stop", "-m", "fast", **as_user)


def _control(programs: Path, folder: Path, action: str, *options: str | Path, **as_user: Any) -> None:
    command = [programs / "pg_ctl", "-w", "-D", folder, *options, action]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, cwd="/", **quiet, **as_user)


def _let_through(folder: Path) -> None:
    for one in (folder, *folder.parents):
        if one.stat().st_uid == os.geteuid() and not one.stat().st_mode & 0o001:
            one.chmod(one.stat().st_mode | 0o001)


def _server_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        return pwd.getpwnam("nobody")
