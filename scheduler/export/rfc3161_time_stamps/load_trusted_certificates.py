"""The certificates of time-stamping authorities that are trusted."""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UsageError
from jobs.signing_identity.find_identity_file import read_limited

if TYPE_CHECKING:
    from cryptography import x509


def read_certificates(path: Path, place: str | None = None) -> "list[x509.Certificate]":
    """Return the certificates in a PEM file. Raises UsageError, which names the `place`, if there are none."""
    from models.provenance.parse_certificates import parse_certificates  # noqa: PLC0415 - needs the extra's packages

    place = place or f"NIGHTMILL_TIMESTAMP_TRUST {path}"
    try:
        return parse_certificates(read_limited(path, place))
    except ValueError:
        raise UsageError(
            f"{place}: holds no certificates that can be read (-----BEGIN CERTIFICATE-----)"
        ) from None
