"""What an input image says of its own origin: its signed manifest and nightmill's mark."""

import numpy as np
from PIL import Image

from jobs.setting_values.watermark_key import PUBLIC, MarkKey
from jobs.settings import Settings
from models.provenance.media_type import media_type_of
from models.provenance.read_manifest import ManifestReader, UnreadableManifestError
from models.watermark.tiled.identify_mark import identify

Findings = dict[str, object]


class InputExaminer:
    """Examines input images for manifests and marks."""

    def __init__(self, settings: Settings) -> None:
        self._manifests = ManifestReader()
        given = settings.watermark_key
        keys = [PUBLIC] if given is None else [PUBLIC, MarkKey.parse(given.get_secret_value())]
        self._keys = {key.number: key.secret for key in keys}

    def examine(self, body: bytes, image: Image.Image) -> Findings:
        """Return what is found of a file and its (H, W, 3) picture, as JSON values; empty: nothing."""
        return self._manifest(body) | self._mark(image)

    def _manifest(self, body: bytes) -> Findings:
        media_type = media_type_of(body)
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
