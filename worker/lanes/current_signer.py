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
    """The signer of an identity, made anew when that changes. For use in the process that made it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._signer: FileSigner | None = None
        self._pem: bytes | None = None

    def get(self) -> FileSigner | None:
        """Return the signer; None: files aren't signed.

        Raises UsageError, SigningIdentityError or SigningError if there never was a usable identity. One that is
        replaced by an unusable one, or gone, signs on until its certificate expires.
        """
        try:
            self._read()
        except (UsageError, SigningIdentityError, SigningError) as error:
            if self._signer is None:
                raise
            log.warning("signing by the identity that was read before: %s", error)
        return self._signer

    def _read(self) -> None:
        found = read_signing_identity(self._settings)
        if found is None or found.pem == self._pem:
            return
        identity = SigningIdentity.parse(found.pem)
        self._signer = FileSigner(identity, embeds=self._settings.c2pa != "sidecar")
        self._pem = found.pem
