"""Where the identity that signs image files is: in the setting `signing_identity`, or in the folder of the data."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.storage.safe_open import open_regular

FOLDER = "identity"
IDENTITY = "signing.pem"
AUTHORITY_KEY = "authority-key.pem"
TRUSTED = "trusted.pem"
"""Certificates of the authorities of this identity and of those before it."""
LONGEST = 1 << 20
_BEGINS_TEXT = ("-----BEGIN ", "pkcs11:")
"""How a signing identity begins, as a path doesn't."""
_VARIABLE = "NIGHTMILL_SIGNING_IDENTITY"


@dataclass(frozen=True)
class IdentityText:
    """A signing identity as PEM, perhaps with the URI of a key in a token, and where it was found."""

    pem: bytes = field(repr=False)
    place: str
    file: Path | None


def identity_folder(settings: Settings) -> Path:
    """Return the folder in which `nightmill identity` keeps keys and certificates."""
    return settings.data_dir / FOLDER


def read_signing_identity(settings: Settings) -> IdentityText | None:
    """Return the identity that files are to be signed with; None if they aren't to be signed.

    Raises UsageError if its file can't be read, or `c2pa` asks for signatures without one.
    """
    if settings.c2pa == "off":
        return None
    found = find_signing_identity(settings)
    if found is None and settings.c2pa != "auto":
        raise UsageError(
            f"NIGHTMILL_C2PA is {settings.c2pa}, and there is no signing identity: make one by "
            f"`nightmill identity create`, or name its file in {_VARIABLE}"
        )
    return found


def find_signing_identity(settings: Settings) -> IdentityText | None:
    """Return the identity that is there, whether or not files are signed; UsageError if its file can't be read."""
    given = settings.signing_identity
    if given is None:
        file = identity_folder(settings) / IDENTITY
        if (
            not file.parent.is_dir()
        ):  # also where there can be none: whoever needs the folder of the data says so
            return None
        body = read_if_there(file, str(file))
        return None if body is None else IdentityText(body, str(file), file)
    text = given.get_secret_value()
    if text.lstrip().startswith(_BEGINS_TEXT):
        return IdentityText(text.encode(), _VARIABLE, None)
    file = Path(text).expanduser().absolute()
    return _of_file(file, f"{_VARIABLE} {file}")


def trusted_authorities(settings: Settings) -> bytes:
    """Return the certificates, as PEM, of the authorities whose signatures this installation trusts."""
    file = identity_folder(settings) / TRUSTED
    return read_if_there(file, str(file)) or b""


def read_limited(file: Path, place: str) -> bytes:
    """Return the bytes of a small file; raises UsageError, which names `place`, if it can't be read or isn't small."""
    body = read_if_there(file, place)
    if body is None:
        raise UsageError(f"{place}: can't be read: No such file or directory")
    return body


def read_if_there(file: Path, place: str) -> bytes | None:
    """Return the bytes of a small file; None if there is none. Raises UsageError if it can't be read or isn't small."""
    try:
        with os.fdopen(open_regular(file), "rb") as stream:
            body = stream.read(LONGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{place}: can't be read: {error.strerror}") from None
    if len(body) > LONGEST:
        raise UsageError(f"{place}: is longer than {LONGEST:,} bytes")
    return body


def _of_file(file: Path, place: str) -> IdentityText:
    return IdentityText(read_limited(file, place), place, file)
