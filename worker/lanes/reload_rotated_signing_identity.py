"""What signs files: by the identity as its file is now, so that a new one is taken over without a restart."""

import logging

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.signing_identity.find_identity_file import read_signing_identity
from models.errors import SigningError, SigningIdentityError
from models.provenance.sign_file import FileSigner
from models.provenance.signing_identity import SigningIdentity

log = logging.getLogger(__name__)


class CurrentSigner:
    """The signer of an identity, made anew when that is replaced. For use in the process that made it.

    Whether files are signed is decided at the first use.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_decided = False
        self._signer: FileSigner | None = None
        self._pem = b""
        self._refused = b""

    def get(self) -> FileSigner | None:
        """Return the signer; None: files aren't signed.

        The first call raises UsageError, SigningIdentityError or SigningError if the identity can't be used. One that
        is replaced by such a one, or gone, signs on.
        """
        if self._signer is not None:
            self._renew()
        elif not self._is_decided:
            found = read_signing_identity(self._settings)
            self._signer = self._made(found.pem) if found else None
            self._is_decided = True
        return self._signer

    def _renew(self) -> None:
        try:
            found = read_signing_identity(self._settings)
        except UsageError as error:
            log.warning("signing by the identity that was read before: %s", error)
            return
        if found is None or found.pem in (self._pem, self._refused):
            return
        pem = self._pem
        try:
            SigningIdentity.parse_valid(found.pem).check_signs()
            self._signer = self._made(found.pem)
        except (SigningIdentityError, SigningError) as error:
            log.warning("signing by the identity that was read before: %s: %s", found.place, error)
            self._refused = found.pem
            self._signer = self._made(pem)  # a token that is asked for another key forgets this one

    def _made(self, pem: bytes) -> FileSigner:
        signer = FileSigner(SigningIdentity.parse(pem), embeds=self._settings.c2pa != "sidecar")
        self._pem = pem
        return signer
