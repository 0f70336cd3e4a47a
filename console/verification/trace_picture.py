"""Traces one picture: asks the signed manifest, the mark, digests and the ISCC code, and weighs what they say.

Imported where the worker's packages are.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import numpy as np

from console.verification.image_index import ImageIndex, ImageRow
from jobs.images.decode_picture import decode_picture, flattened
from models.provenance.iscc_code import bits_of, image_code
from models.provenance.media_type import media_type_of
from models.provenance.read_manifest import Manifest, ManifestReader, ManifestState, UnreadableManifestError
from models.watermark.blocks import Pixels
from models.watermark.tiled.identify_mark import Mark, identify
from models.watermark.tiled.payload import installation_number

_IMAGE_URN = re.compile(r"urn:nightmill:([0-9a-f-]{36}):job:(\d{1,13})")
_OTHER_PICTURE_BITS = 20
"""Of 64: two pictures that have nothing in common differ in about 32, a compressed or smaller copy in a few."""


class Verdict(StrEnum):
    """Whose a picture is."""

    OURS = "ours"
    OTHERS = "of another installation"
    SIMILAR = "similar to ours"
    """Its ISCC code is near that of a row: a changed copy, or another picture that looks like it."""
    UNCLEAR = "can't tell"
    NONE = "no trace of ours"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class _Claim:
    """What a trusted manifest or a mark says: which job's image it is, and whose; None: nobody here can tell."""

    layer: str
    job: int
    is_ours: bool | None


class PictureTracer:
    """Traces pictures by keys of marks, trusted authorities and an index of image rows, or without such an index."""

    def __init__(
        self, keys: Mapping[int, bytes], trusted: bytes, index: ImageIndex | None, *, searches: bool
    ) -> None:
        """`trusted` are PEM certificates; `searches`: look for marks of cropped, mirrored and turned pictures, too."""
        self._keys, self._index, self._searches = keys, index, searches
        self._manifests = ManifestReader(trusted)
        self._numbers = {installation_number(each) for each in index.installations} if index else set()

    def trace(self, body: bytes, location: str) -> dict[str, Any]:
        """Return what each layer says of a file, the verdict, and the image's row, as JSON values.

        Raises PictureRefusedError if it is no picture.
        """
        pixels = np.asarray(flattened(decode_picture(body, location)))
        manifest, problem = self._manifest(body)
        digest, row = self._digest(body, pixels)
        mark = identify(pixels, self._keys, searches=False)
        claims = self._claims(manifest, mark)
        if self._searches and row is None and not claims:
            mark = identify(pixels, self._keys, searches=True)
            claims = self._claims(manifest, mark)
        code = image_code(pixels)
        told = {
            "manifest": _told_of_manifest(manifest, problem),
            "mark": _told_of_mark(mark),
            "digest": digest,
            "iscc": {"code": code, "bits": None},
        }
        return told | self._verdict(row, claims, mark, code) | _warning(manifest)

    def _manifest(self, body: bytes) -> tuple[Manifest | None, str | None]:
        """Return the manifest, or why it can't be read."""
        media_type = media_type_of(body)
        try:
            return (self._manifests.read(body, media_type) if media_type else None), None
        except UnreadableManifestError as error:
            return None, str(error)

    def _digest(self, body: bytes, pixels: Pixels) -> tuple[str | None, ImageRow | None]:
        """Return whether the file or only its pixels are those of a row, and the row."""
        if self._index is None:
            return None, None
        if row := self._index.of_file(hashlib.sha256(body).hexdigest()):
            return "file", row
        row = self._index.of_pixels(hashlib.sha256(pixels.tobytes()).hexdigest())
        return ("pixels", row) if row else (None, None)

    def _claims(self, manifest: Manifest | None, mark: Mark | None) -> list[_Claim]:
        claims = []
        if manifest is not None and manifest.state is ManifestState.TRUSTED:
            named = _IMAGE_URN.fullmatch(str((manifest.generation or {}).get("image", "")))
            if named:
                claims.append(_Claim("manifest", int(named[2]), self._is_here(UUID(named[1]))))
        if mark is not None:
            is_ours = mark.payload.installation in self._numbers if self._numbers else None
            claims.append(_Claim("mark", mark.payload.job, is_ours))
        return claims

    def _is_here(self, installation: UUID) -> bool | None:
        known = self._index.installations if self._index else frozenset()
        return installation in known if known else None

    def _verdict(
        self, row: ImageRow | None, claims: list[_Claim], mark: Mark | None, code: str
    ) -> dict[str, Any]:
        found_by = (["digest"] if row else []) + [claim.layer for claim in claims]
        said: dict[str, Any] = {"found_by": found_by, "row": row, "why": None}
        if row is not None:
            return said | {"verdict": Verdict.OURS}
        if not claims:
            return said | self._similar(code)
        if len({(claim.job, claim.is_ours) for claim in claims}) > 1:
            jobs = " and ".join(f"the {claim.layer} of job {claim.job}" for claim in claims)
            return said | {"verdict": Verdict.UNCLEAR, "why": f"they contradict each other: {jobs}"}
        claim = claims[0]
        if claim.is_ours is None:
            return said | {"verdict": Verdict.UNCLEAR, "why": "no database or index here tells whose it is"}
        if not claim.is_ours:
            return said | {"verdict": Verdict.OTHERS}
        return said | self._of_job(claim, mark, code)

    def _of_job(self, claim: _Claim, mark: Mark | None, code: str) -> dict[str, Any]:
        assert self._index is not None
        row = self._index.of_job(claim.job)
        why = None
        if row is None and mark is not None and (row := self._index.copy_with_mark(mark.payload.hex)):
            why = "the row is of a copy: that of the job is gone"
        if row is None:
            return {"verdict": Verdict.OURS, "why": "its row is gone"}
        if claim.layer == "mark" and mark is not None and mark.place is None and _is_other(row, code):
            why = "it looks like another picture than its row's: the mark may have been put there by somebody else"
            return {"verdict": Verdict.UNCLEAR, "row": row, "why": why}
        return {"verdict": Verdict.OURS, "row": row, "why": why}

    def _similar(self, code: str) -> dict[str, Any]:
        found = self._index.similar(code) if self._index else None
        if found is None:
            return {"verdict": Verdict.NONE}
        row, bits = found
        return {
            "verdict": Verdict.SIMILAR,
            "found_by": ["iscc"],
            "row": row,
            "iscc": {"code": code, "bits": bits},
            "why": f"{bits} of 64 bits of its ISCC code differ from the row's",
        }


def _is_other(row: ImageRow, code: str) -> bool:
    known = row.get("iscc")
    return bool(known) and (bits_of(str(known)) ^ bits_of(code)).bit_count() > _OTHER_PICTURE_BITS


def _told_of_manifest(manifest: Manifest | None, problem: str | None) -> dict[str, Any] | None:
    if manifest is None:
        return {"state": "unreadable", "why": problem} if problem else None
    return {
        "id": manifest.id,
        "state": manifest.state,
        "is_tampered": manifest.is_tampered,
        "failures": list(manifest.failures),
        "signer": manifest.signer,
        "generator": manifest.generator,
        "source_type": manifest.source_type,
        "generation": manifest.generation,
        "ingredients": list(manifest.ingredients),
    }


def _told_of_mark(mark: Mark | None) -> dict[str, Any] | None:
    if mark is None:
        return None
    return {
        "payload": mark.payload.hex,
        "key": mark.payload.key_id,
        "installation": mark.payload.installation,
        "job": mark.payload.job,
        "pilot": round(mark.pilot, 1),
        "was_searched_for": mark.place is not None,
    }


def _warning(manifest: Manifest | None) -> dict[str, Any]:
    """Return what is to be said of a manifest that doesn't fit the file, beside the verdict."""
    if manifest is None or manifest.state is not ManifestState.INVALID:
        return {"warning": None}
    what = (
        "the picture was changed since it was signed" if manifest.is_tampered else "the signature isn't valid"
    )
    return {"warning": f"{what} ({', '.join(manifest.failures)})"}
