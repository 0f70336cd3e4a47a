"""Sanitise text for display: mask passwords, and escape control characters that a terminal would interpret."""

import os
import re
from urllib.parse import parse_qsl, unquote, urlsplit

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHORTEST = 3
_SECRET = re.compile("pass|secret|token|key", re.IGNORECASE)


def visible(text: str) -> str:
    """Escape control characters except tab and line feed, and bidirectional controls, as in a Python literal."""
    return _OBEYED.sub(lambda found: repr(found.group())[1:-1], text)


def without_secrets(text: str) -> str:
    """Replace the passwords and keys found in environment variables by ***."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> set[str]:
    found: set[str] = set()
    for name, value in os.environ.items():
        if name.startswith("NIGHTMILL_") and name.endswith("_URL"):
            found |= _of_url(value)
        elif _SECRET.search(name) and name.startswith(("AWS_", "HF_", "NIGHTMILL_")):
            found.add(value)
    return {secret for secret in found if len(secret) >= _SHORTEST}


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
