"""Signatures of messages, after https://www.standardwebhooks.com (symmetric, `v1`)."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

_PREFIX = "whsec_"
_BYTES = 32


def new_secret() -> str:
    """Return a random secret, as receivers' libraries take it."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def signed_headers(message: str, timestamp: int, body: bytes, keys: Sequence[str]) -> Mapping[str, str]:
    """Return the headers of a message: its id, the Unix time of the attempt, and a signature by each secret."""
    content = f"{message}.{timestamp}.".encode() + body
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(key, content)}" for key in keys),
    }


def _signature(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
