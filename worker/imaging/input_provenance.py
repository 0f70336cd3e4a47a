"""What an input image says of its own origin: its signed manifest and nightmill's mark."""

import numpy as np
from PIL import Image

from jobs.setting_values.watermark_key import PUBLIC
from jobs.settings import Settings
from jobs.signing_identity.find_identity_file import trusted_authorities
from models.provenance.manifest_size import manifest_bytes
from models.provenance.media_type import media_type_of
from models.provenance.parent_file import ParentFile
from models.provenance.read_manifest import ManifestReader, UnreadableManifestError
from models.watermark.tiled.identify_mark import identify

Findings = dict[str, object]
MOST_MANIFEST_BYTES = 1 << 20
"""Larger manifests of input images are neither read nor kept: each image made from one would be as large."""


def parent_file(body: bytes) -> ParentFile | None:
    """Return an input image as an ingredient of a manifest; None if it can't be one."""
    media_type = media_type_of(body)
    is_fit = media_type is not None and manifest_bytes(body) <= MOST_MANIFEST_BYTES
    return ParentFile(body, media_type) if media_type and is_fit else None


class InputExaminer:
    """Examines input images for manifests and marks."""

    def __init__(self, settings: Settings) -> None:
        self._manifests = ManifestReader(trusted_authorities(settings))
        self._keys = {key.number: key.secret for key in (PUBLIC, settings.mark_key)}

    def examine(self, body: bytes, image: Image.Image) -> Findings:
        """Return what is found of a file and its (H, W, 3) picture, as JSON values; empty: nothing."""
        return self._manifest(body) | self._mark(image)

    def _manifest(self, body: bytes) -> Findings:
        media_type, size = media_type_of(body), manifest_bytes(body)
        if size > MOST_MANIFEST_BYTES:
            return {"c2pa": {"state": "unreadable", "why": f"its manifests have {size:,} bytes"}}
        try:
            found = media_type and self._manifests.read(body, media_type)
        except UnreadableManifestError as error:
            return {"c2pa": {"state": "unreadable", "why": str(error)}}
        if not found:
            return {}
        told = {
            "manifest": found.id,
            "state": found.state,
            "signer": found.signer,
            "generator": found.generator,
        }
        return {"c2pa": told | {"source_type": found.source_type}}

    def _mark(self, image: Image.Image) -> Findings:
        mark = identify(np.asarray(image), self._keys, searches=False)
        return {} if mark is None else {"mark": mark.payload.hex}
