"""Sanitise text for display: mask passwords, and escape control characters that a terminal would interpret."""

import os
import re
from functools import cache
from urllib.parse import parse_qsl, unquote, urlsplit

from jobs.errors import UsageError
from jobs.secret_files import VARIABLE, secret_files

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHORTEST = 3
_LEAST_LINE = 16
"""Lines of a secret of several lines, such as a private key, that are masked alone, too."""
_SECRET = re.compile("pass|secret|token|key|identity", re.IGNORECASE)


def visible(text: str) -> str:
    """Escape control characters except tab and line feed, and bidirectional controls, as in a Python literal."""
    return _OBEYED.sub(lambda found: repr(found.group())[1:-1], text)


def without_secrets(text: str) -> str:
    """Replace the passwords and keys found in environment variables and in NIGHTMILL_SECRETS_DIR by ***."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> set[str]:
    found = set(_of_files(os.environ.get(VARIABLE, "")))
    for name, value in os.environ.items():
        if name.endswith(("_DIR", "_FILE")):
            continue  # where secrets lie is none
        if name.startswith("NIGHTMILL_") and name.endswith("_URL"):
            found |= _of_url(value)
        elif name == "NIGHTMILL_SIGNING_IDENTITY" and "-----BEGIN" not in value:
            continue  # where it lies
        elif _SECRET.search(name) and name.startswith(("AWS_", "HF_", "NIGHTMILL_")):
            found |= _lines(value)
    return {secret for secret in found if len(secret) >= _SHORTEST}


@cache
def _of_files(folder: str) -> frozenset[str]:  # noqa: ARG001 - what the cache goes by
    """Return the secrets in the folder's files, which are read once, like all settings."""
    try:
        texts = {name: path.read_text(encoding="utf-8").strip() for name, path in secret_files().items()}
    except (UsageError, OSError, UnicodeDecodeError):
        return frozenset()  # whoever reads the settings says what is wrong
    found = {secret for name, text in texts.items() if name.endswith("_url") for secret in _of_url(text)}
    return frozenset(found.union(*(_lines(text) for name, text in texts.items() if _SECRET.search(name))))


def _lines(secret: str) -> set[str]:
    return {secret, *(line for line in secret.split("\n") if len(line) >= _LEAST_LINE)}


def _of_url(url: str) -> set[str]:
    """Return a URL's password and query values, both percent-encoded and decoded."""
    try:
        parts = urlsplit(url)
        written = {parts.password or "", *(value for _, value in parse_qsl(parts.query) if "/" not in value)}
    except ValueError:
        return {url}
    raw = (
        {pair.partition("=")[2] for pair in parts.query.split("&")} if _SECRET.search(parts.query) else set()
    )
    return written | raw | {unquote(part) for part in written}
