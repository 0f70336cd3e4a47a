"""Looks up what the layers of a picture claim of its origin: whose it is, and which row."""

import hashlib
import re
from collections.abc import Sequence
from uuid import UUID

from console.provenance_lookup.image_index import ImageIndex, ImageRow
from console.provenance_lookup.weigh_claims import Claim
from models.provenance.read_manifest import Manifest, ManifestState
from models.watermark.blocks import Pixels
from models.watermark.tiled.identify_mark import Mark
from models.watermark.tiled.payload import installation_number

_IMAGE_URN = re.compile(r"urn:nightmill:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):job:(\d{1,13})")


class ClaimLookup:
    """Looks up digests, manifests and marks in an index of image rows, or without one."""

    def __init__(self, index: ImageIndex | None) -> None:
        self._index = index
        self._numbers = {installation_number(each) for each in index.installations} if index else set()

    def claims(
        self, pixels: Pixels, sha256: str, manifest: Manifest | None, mark: Mark | None
    ) -> list[Claim]:
        """Return what each layer claims of a picture, a digest before the others; `sha256` is the file's."""
        by_digest = self._by_pixels(pixels, sha256)
        by_manifest = self._by_manifest(manifest, None if by_digest else sha256)
        by_digest = by_digest or _by_file(by_manifest, sha256)
        return [*by_digest, *by_manifest, *self.by_mark(mark)]

    def _by_pixels(self, pixels: Pixels, file: str) -> list[Claim]:
        if self._index is None or is_plain(pixels):
            return []
        size = pixels.shape[1], pixels.shape[0]
        row = self._index.of_pixels(hashlib.sha256(pixels.tobytes()).hexdigest(), size, file)
        return [Claim("digest", is_ours=True, row=row)] if row else []

    def _by_manifest(self, manifest: Manifest | None, sha256: str | None) -> list[Claim]:
        """Return what a manifest of a trusted signer says: it is of the row that names it, whatever row it names.

        Whoever is trusted can sign another picture under the same number: the file has to be the row's, too, of the
        SHA-256. None if its pixels are a row's.
        """
        if manifest is None or manifest.state is not ManifestState.TRUSTED:
            return []
        named = _IMAGE_URN.fullmatch(str((manifest.generation or {}).get("image", "")))
        if named is None:
            return []
        if self._index is None or not self._index.installations:
            return [Claim("manifest", is_ours=None)]
        if UUID(named[1]) not in self._index.installations:
            return [Claim("manifest", is_ours=False)]
        if row := self._index.of_manifest(manifest.id):
            return [_of_row(manifest, row, sha256)]
        why = f"its manifest says so, and no row has this manifest{_gone(self._index, int(named[2]))}"
        return [Claim("manifest", is_ours=True, why=why)]

    def by_mark(self, mark: Mark | None) -> list[Claim]:
        """Return what a mark says: it is of its job's row, or of a row whose file is a copy of the job's."""
        if mark is None:
            return []
        if self._index is None or not self._numbers:
            return [Claim("mark", is_ours=None)]
        if mark.payload.installation not in self._numbers:
            return [Claim("mark", is_ours=False)]
        if row := self._index.of_job(mark.payload.job):
            return [Claim("mark", is_ours=True, row=row)]
        if row := self._index.copy_with_mark(mark.payload.hex):
            return [Claim("mark", is_ours=True, row=row, why="the row is of a copy: that of the job is gone")]
        why = f"its mark says so, and there is no such row{_gone(self._index, mark.payload.job)}"
        return [Claim("mark", is_ours=True, why=why)]


def _of_row(manifest: Manifest, row: ImageRow, sha256: str | None) -> Claim:
    if sha256 in (None, row["sha256"]):
        return Claim("manifest", is_ours=True, row=row)
    why = f"{manifest.signer} has signed another picture than that of the row that its manifest names"
    return Claim("manifest", is_ours=None, row=row, why=why)


def _gone(index: ImageIndex, job: int) -> str:
    """Return what has become of a job whose image isn't there, as the end of a sentence."""
    state = index.state_of_job(job)
    return ", or it is gone" if state is None else f": job {job} {state}"


def is_plain(pixels: Pixels) -> bool:
    """Whether a picture has one colour, as blackened ones: it is like any other of this colour."""
    return bool((pixels == pixels[0, 0]).all())


def _by_file(claims: Sequence[Claim], sha256: str) -> list[Claim]:
    """Return that a file is the one of the row that its manifest leads to: withheld images have no other digest."""
    rows = [claim.row for claim in claims if claim.row is not None and claim.row["sha256"] == sha256]
    return [Claim("digest", is_ours=True, row=row) for row in rows]
