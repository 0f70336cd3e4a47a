"""Where settings come from, and what looks like one and isn't: variables and files of NIGHTMILL_SECRETS_DIR."""

import os
from pathlib import Path

from jobs.secret_files import PREFIX, secret_files
from jobs.settings import RENAMED, Settings
from jobs.suggest_names_and_shorten_lists import nearest


def misspelt_settings() -> dict[str, str | None]:
    """Return the variables and files that are named like settings and are none, each with the one that may be meant."""
    known = {f"{PREFIX}{name}".upper() for name in (*Settings.model_fields, *RENAMED)}
    variables = sorted(name for name in os.environ if name.startswith(PREFIX.upper()))
    found = {name: nearest(name, known) for name in variables if name not in known}
    for name, path in secret_files().items():
        if name not in Settings.model_fields:
            near = nearest(name, Settings.model_fields)
            found[str(path)] = near and f"{PREFIX}{near}"
    return found


def files_read() -> list[Path]:
    """Return the files that settings are read from: those for which no variable is set."""
    return [
        path
        for name, path in secret_files().items()
        if name in Settings.model_fields and f"{PREFIX}{name}".upper() not in os.environ
    ]
