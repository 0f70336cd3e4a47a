"""What is known of the identity that workers sign image files with."""

import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from console.signing_identity.identity_folder import IdentityFolder
from console.terminal.output import duration, plural
from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.signing_identity.find_identity_file import (
    IdentityText,
    find_signing_identity,
    read_if_there,
    read_signing_identity,
    trusted_authorities,
)
from models.errors import SigningIdentityError
from models.provenance.pkcs11_uri import Pkcs11Uri, uri_in

SOON = timedelta(days=30)
_FEW_DAYS = timedelta(days=2)


def described(settings: Settings) -> dict[str, Any]:
    """Return what is known of the identity that workers would use; needs the worker's packages.

    `place` is null if there is none; `problem` says why it can't be used, or soon can't be used any more.
    """
    found = find_signing_identity(settings)
    told: dict[str, Any] = {
        "place": found and found.place,
        "signs": settings.c2pa != "off" and found is not None,
        "manifests": "sidecar" if settings.c2pa == "sidecar" else "embedded",
    }
    return told | (
        _of_identity(found, settings) if found else {"is_usable": False, "problem": "there is none"}
    )


def require_usable_identity(settings: Settings) -> None:
    """Raise UsageError if workers here would end at once, as they are to sign by an identity that can't be used."""
    if read_signing_identity(settings) is None:
        return
    told = described(settings)
    if not told["is_usable"]:
        raise UsageError(f"{told['place']}: {told['problem']}; NIGHTMILL_C2PA=off leaves files unsigned")


def _of_identity(found: IdentityText, settings: Settings) -> dict[str, Any]:
    from models.provenance.signing_identity import (  # noqa: PLC0415 - needs the worker's packages
        SigningIdentity,
        fingerprint,
        name_of,
        organization_of,
    )

    try:
        parsed = SigningIdentity.parse_valid(found.pem)
        parsed.check_signs()
    except SigningIdentityError as error:
        return {"is_usable": False, "problem": str(error)}
    left = parsed.expires_at - datetime.now(UTC)
    trusted = trusted_authorities(settings).count(b"-----BEGIN CERTIFICATE")
    return {
        "is_usable": True,
        "problem": _problem(found, parsed.token, left),
        "key": "in the file" if parsed.token is None else f"in a token: {parsed.token.place}",
        "organization": organization_of(parsed.leaf),
        "name": name_of(parsed.leaf),
        "algorithm": parsed.algorithm,
        "expires_at": parsed.expires_at.isoformat(timespec="seconds"),
        "fingerprint": fingerprint(parsed.leaf),
        "trusted_authorities": trusted,
    }


def token_of(folder: IdentityFolder) -> str | None:
    """Return which key in a token the identity in a folder names; None if it names none that can be read."""
    body = read_if_there(folder.identity, str(folder.identity))
    with suppress(SigningIdentityError):
        uri = uri_in(body or b"")
        return None if uri is None else uri.place
    return None


def _problem(found: IdentityText, token: Pkcs11Uri | None, left: timedelta) -> str | None:
    file, what = (found.file, "private key") if token is None else (token.pin_file, "PIN")
    if file is not None and stat.S_IMODE(file.stat().st_mode) & 0o004:
        return f"its {what} can be read by every user of this host: chmod 600 {file}"
    if left >= SOON:
        return None
    is_soon = left < _FEW_DAYS
    return f"expires in {duration(max(0.0, left.total_seconds())) if is_soon else plural(left.days, 'day')}"
