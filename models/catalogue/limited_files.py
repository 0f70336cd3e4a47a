"""Read small text, JSON and TOML files with limits: regular files only, by default up to 1 MiB."""

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

MAX_BYTES = 2**20
_KEY = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_KEY}[ \t]*+\.[ \t]*+){{16}}")


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Return the text of a small regular file, following links; never blocks, for instance on a pipe.

    Raises OSError if it can't be opened, and ValueError if it is not a regular file, too large or not UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        body = file.read(limit + 1)
    if len(body) > limit:
        raise ValueError(f"it has over {limit:,} bytes")
    return body.decode()


def why_unreadable(error: OSError | ValueError) -> str:
    """Return in words why `read_text` couldn't read a file."""
    if isinstance(error, UnicodeDecodeError):
        return "it isn't UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Parse the JSON in a small regular file. Raises OSError, and ValueError with a reason."""
    try:
        return json.loads(read_text(path, limit))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Parse the TOML in a small regular file. Raises OSError, and ValueError with a reason."""
    text = read_text(path)
    if _LONG_KEY.search(text):  # tomllib stores every prefix of a dotted key
        raise ValueError("it has a key of more than 16 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
