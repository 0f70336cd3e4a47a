"""Signs image files with C2PA manifests."""

import io
import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field

import c2pa

from models.errors import SigningError
from models.provenance.image_claim import ImageClaim
from models.provenance.parent_file import ParentFile
from models.provenance.pkcs11_signing_key import TokenKey
from models.provenance.read_manifest import (
    NO_REQUESTS,
    Manifest,
    ManifestReader,
    ManifestState,
    UnreadableManifestError,
    first_line,
)
from models.provenance.signing_identity import SigningIdentity, fingerprint

MOST_SIGNED_BYTES = 3 << 19
"""An input image's manifests, of which each image made from it has a copy, have up to 1 MiB."""


@dataclass(frozen=True)
class Signed:
    """A signed file, and its manifest as it was read back.

    `sidecar` is the manifest store (`application/c2pa`) that is to be kept beside the file; None: it is in the file.
    """

    body: bytes = field(repr=False)
    manifest: Manifest
    sidecar: bytes | None = field(default=None, repr=False)


class FileSigner:
    """Signs files with one identity. For use in the process that made it, by several threads."""

    def __init__(self, identity: SigningIdentity, *, embeds: bool = True) -> None:
        """`embeds`: manifests are written into the files, else kept beside them.

        Raises SigningError if c2pa refuses the identity.
        """
        self.embeds = embeds
        self.fingerprint = fingerprint(identity.leaf)
        self._lock = threading.Lock()
        self._token_error: SigningError | None = None
        config = {
            **NO_REQUESTS,
            "builder": {"thumbnail": {"enabled": False}},  # else 40 ms and 30 KB and more
            "verify": NO_REQUESTS["verify"] | {"verify_after_sign": False},  # it is read back below
        }
        try:
            self._context = c2pa.Context.from_dict(config, self._signer(identity))
        except c2pa.C2paError as error:
            raise SigningError(f"c2pa refuses the signing identity: {error}") from error
        self._reader = ManifestReader()

    def _signer(self, identity: SigningIdentity) -> c2pa.Signer:
        if isinstance(identity.key, bytes):
            info = c2pa.C2paSignerInfo(
                alg=identity.algorithm.encode(),
                sign_cert=identity.chain,
                private_key=identity.key,
                ta_url=None,
            )
            return c2pa.Signer.from_info(info)
        key = TokenKey(identity.key, identity.algorithm)

        def sign(data: bytes) -> bytes | None:
            try:
                return key.sign(data)
            except SigningError as error:  # c2pa would log it, and tell nothing of it
                self._token_error = error
                return None

        algorithm = c2pa.C2paSigningAlg[identity.algorithm.upper()]
        return c2pa.Signer.from_callback(sign, algorithm, identity.chain.decode())

    def sign(
        self, body: bytes, media_type: str, claim: ImageClaim, parent: ParentFile | None = None
    ) -> Signed:
        """Return the file with a manifest; raises SigningError if it can't be signed, or isn't valid as it reads back.

        The bytes of a file whose manifest is kept beside it stay as they are. `parent` becomes an ingredient with its
        own manifests, if it has some; not so one that c2pa can't read, or whose manifests would make more than
        `MOST_SIGNED_BYTES` of this one.
        """
        if parent is not None:
            with suppress(SigningError):
                return self._signed(body, media_type, claim, parent)
        return self._signed(body, media_type, claim, None)

    def _signed(self, body: bytes, media_type: str, claim: ImageClaim, parent: ParentFile | None) -> Signed:
        out = io.BytesIO()
        with self._lock:  # threads gain nothing here
            self._token_error = None
            try:
                with closing(
                    c2pa.Builder(claim.manifest(has_parent=parent is not None), self._context)
                ) as builder:
                    if parent is not None:
                        _add_parent(builder, parent)
                    if not self.embeds:
                        builder.set_no_embed()
                    store = builder.sign(media_type, io.BytesIO(body), out)
            except c2pa.C2paError as error:
                if self._token_error is not None:
                    raise self._token_error from None
                raise SigningError(f"the file can't be signed: {first_line(error)}") from error
        if parent is not None and len(store) > MOST_SIGNED_BYTES:
            raise SigningError(f"with the input image's manifests it has {len(store):,} bytes")
        signed, sidecar = (out.getvalue(), None) if self.embeds else (body, store)
        manifest = self._read_back(signed, media_type, sidecar)
        if manifest is None or manifest.state is ManifestState.INVALID:
            why = ", ".join(manifest.failures) if manifest else "there is none"
            raise SigningError(f"the manifest isn't valid as it reads back from the file: {why}")
        return Signed(signed, manifest, sidecar)

    def _read_back(self, signed: bytes, media_type: str, sidecar: bytes | None) -> Manifest | None:
        try:
            return self._reader.read(signed, media_type, sidecar)
        except UnreadableManifestError as error:
            raise SigningError(f"the manifest can't be read back from the file: {error}") from error


def _add_parent(builder: c2pa.Builder, parent: ParentFile) -> None:
    builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
    ingredient = {"relationship": "parentOf", "title": "init_image"}
    builder.add_ingredient(ingredient, parent.media_type, io.BytesIO(parent.body))
