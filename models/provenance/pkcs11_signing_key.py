"""Signs by a private key that never leaves its token (PKCS#11): a smart card, a USB token, an HSM."""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from models.errors import MissingPackagesError, SigningError, SigningIdentityError
from models.optional_packages import require
from models.provenance.pkcs11_uri import Pkcs11Uri

_CALLS = threading.Lock()
"""Modules are initialized without threads of their own: no two calls at once, whichever token they are of."""
_DIGESTS = {"es256": hashlib.sha256, "es384": hashlib.sha384, "es512": hashlib.sha512}
_SALT_BYTES = 32
T = TypeVar("T")


class TokenKey:
    """A private key in a token. May be used by several threads, and in a process that was forked from this one.

    The token is opened by the first signature, and again after it was away; then all sessions of its module in this
    process end.
    """

    def __init__(self, uri: Pkcs11Uri, algorithm: str) -> None:
        """`algorithm`: as `SigningIdentity.algorithm`."""
        self._uri, self._algorithm = uri, algorithm
        self._process: int | None = None
        self._key: Any = None
        self._refused: bytes | None = None

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes: ECDSA as r and s, RSA-PSS, or Ed25519.

        Raises SigningError if the token isn't there, refuses its PIN, or has no such key. The message holds no PIN.
        """
        try:
            require("pkcs11", "a key in a token needs")
        except MissingPackagesError as error:
            raise SigningError(str(error)) from None
        with _CALLS:
            if self._key is not None and self._process == os.getpid():
                with suppress(SigningError):  # the token was away: it may be back
                    return self._calling(lambda: self._signed(data))
            self._key = None
            self._key = self._calling(self._opened)
            self._process = os.getpid()
            return self._calling(lambda: self._signed(data))

    def _signed(self, data: bytes) -> bytes:
        from pkcs11 import MGF, Mechanism  # noqa: PLC0415 - of an extra

        if self._algorithm == "ps256":
            options = (Mechanism.SHA256, MGF.SHA256, _SALT_BYTES)
            found = self._key.sign(data, mechanism=Mechanism.SHA256_RSA_PKCS_PSS, mechanism_param=options)
        elif self._algorithm == "ed25519":
            found = self._key.sign(data, mechanism=Mechanism.EDDSA)
        else:
            found = self._key.sign(_DIGESTS[self._algorithm](data).digest(), mechanism=Mechanism.ECDSA)
        return bytes(found)

    def _opened(self) -> Any:
        """Open the token and return the key in it."""
        import pkcs11  # noqa: PLC0415 - of an extra

        try:
            pin = self._uri.read_pin()
        except SigningIdentityError as error:
            raise SigningError(str(error)) from None
        digest = None if pin is None else hashlib.sha256(pin.encode()).digest()
        if digest is not None and digest == self._refused:
            raise SigningError(
                f"the token has refused the PIN in {self._uri.pin_file}, which isn't tried again before it is changed, "
                "as tokens lock themselves"
            )
        library = pkcs11.lib(str(self._uri.module))
        with suppress(pkcs11.PKCS11Error):  # in a forked process it isn't initialized, as modules see it
            library.finalize()
        library.initialize()
        try:
            session = self._token(library).open(user_pin=pin)
        except pkcs11.PinIncorrect:
            self._refused = digest
            raise
        return self._key_in(session)

    def _token(self, library: Any) -> Any:
        from pkcs11 import TokenFlag  # noqa: PLC0415 - of an extra

        wanted = self._uri.token
        present = [slot.get_token() for slot in library.get_slots(token_present=True)]
        tokens = [token for token in present if TokenFlag.TOKEN_INITIALIZED in token.flags]
        found = [
            token for token in tokens if all(_told(token)[name] == value for name, value in wanted.items())
        ]
        if len(found) != 1:
            count = f"{len(found):,} tokens fit" if found else "no token fits"
            raise SigningError(f"{count} {self._uri.place}, of {len(tokens):,} that {self._uri.module} has")
        return found[0]

    def _key_in(self, session: Any) -> Any:
        from pkcs11 import Attribute, ObjectClass  # noqa: PLC0415 - of an extra

        wanted: dict[Any, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        if self._uri.object is not None:
            wanted[Attribute.LABEL] = self._uri.object
        if self._uri.id is not None:
            wanted[Attribute.ID] = self._uri.id
        found = list(session.get_objects(wanted))
        if len(found) != 1:
            count = f"{len(found):,} private keys fit" if found else "no private key fits"
            hint = (
                "without a PIN no private key is seen: name its file by pin-source=file:/…"
                if self._uri.pin_file is None
                else "name one by object=… or id=…"
            )
            raise SigningError(f"{count} {self._uri.place}: {hint}")
        return found[0]

    def _calling(self, call: Callable[[], T]) -> T:
        """Return what a call of the module returns; raises SigningError for its errors."""
        import pkcs11  # noqa: PLC0415 - of an extra

        try:
            return call()
        except pkcs11.PinIncorrect:
            reason = f"refuses the PIN in {self._uri.pin_file}: correct it first, as a token locks after a few tries"
        except pkcs11.PinLocked:
            reason = "has locked its PIN"
        except pkcs11.UserNotLoggedIn:
            reason = "wants a PIN: name its file by pin-source=file:/…"
        except pkcs11.PKCS11Error as error:
            reason = f"can't be used: {str(error) or type(error).__name__}"
        raise SigningError(f"the token of {self._uri.place} {reason}")


def _told(token: Any) -> dict[str, str]:
    """Return what a token says of itself, by the names of attributes of URIs."""
    serial = token.serial.decode("utf-8", "replace") if isinstance(token.serial, bytes) else str(token.serial)
    return {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "model": token.model,
        "serial": serial.rstrip("\0 "),
    }
