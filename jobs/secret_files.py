"""Settings in files of one folder, NIGHTMILL_SECRETS_DIR, as container runtimes and systemd hand secrets over."""

import os
from collections.abc import Iterable
from pathlib import Path

from jobs.errors import UsageError

VARIABLE = "NIGHTMILL_SECRETS_DIR"
PREFIX = "nightmill_"


def secrets_folder() -> Path | None:
    """Return the folder that the variable names, or None."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None


def secret_files() -> dict[str, Path]:
    """Return the folder's files that are named like settings, by the setting's name; {} without a folder.

    Raises UsageError if the folder isn't there or can't be listed.
    """
    folder = secrets_folder()
    if folder is None:
        return {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UsageError(f"{VARIABLE}: can't list {folder}: {error.strerror}") from None
    return {
        name.lower().removeprefix(PREFIX): folder / name for name in names if name.lower().startswith(PREFIX)
    }


def check_secret_files(settings: Iterable[str]) -> None:
    """Raise UsageError unless the files of these settings can be read, hold text, and lie in the folder."""
    files = secret_files()
    for path in (files[name] for name in settings if name in files):
        if reason := _why_not(path):
            raise UsageError(f"{VARIABLE}: {path} {reason}")


def _why_not(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        is_inside = path.parent.resolve() in path.resolve(strict=True).parents
    except UnicodeDecodeError:
        return "isn't text in UTF-8"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    if not text.strip():
        return "is empty"
    return "" if is_inside else "is a link that leads out of the folder"
