"""Traces one picture: asks the signed manifest, the mark, digests and the ISCC code, and weighs what they say.

Imported where the worker's packages are.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import numpy as np

from console.verification.image_index import ImageIndex, ImageRow
from jobs.images.decode_picture import decode_picture, flattened
from jobs.setting_values.watermark_key import PUBLIC
from models.provenance.iscc_code import bits_of, image_code
from models.provenance.media_type import media_type_of
from models.provenance.read_manifest import Manifest, ManifestReader, ManifestState, UnreadableManifestError
from models.watermark.blocks import Pixels
from models.watermark.tiled.identify_mark import Mark, identify
from models.watermark.tiled.payload import installation_number

_IMAGE_URN = re.compile(r"urn:nightmill:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):job:\d{1,13}")
_OTHER_PICTURE_BITS, _OTHER_PART_BITS = 20, 26
"""Of 64: codes of two pictures that have nothing in common differ in about 32 bits, those of a picture and a compressed
or smaller copy in a few, and of a picture and a part of it in up to so many."""


_OTHER_PICTURE = (
    "it looks like another picture than its row's: what says so may have been put there by somebody else"
)

_NO_INDEX = "neither a database here nor the `_SUCCESS` of an index tells whose it is"


_ANY_BITS = 64


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
    """What one layer says: whose a picture is (None: nobody here can tell), and the row; `why` there is none."""

    layer: str
    is_ours: bool | None
    row: ImageRow | None = None
    why: str | None = None


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
        code = image_code(pixels)
        manifest, problem = self._manifest(body)
        mark = identify(pixels, self._keys, searches=False)
        sha256 = hashlib.sha256(body).hexdigest()
        claims = [*self._by_pixels(pixels, sha256), *self._by_manifest(manifest), *self._by_mark(mark)]
        if self._searches and not claims and (mark := identify(pixels, self._keys, searches=True)):
            claims = self._by_mark(mark)
        digest = claims[0].row if claims and claims[0].layer == "digest" else None
        told = {
            "sha256": sha256,
            "manifest": _told_of_manifest(manifest, problem),
            "mark": _told_of_mark(mark),
            "digest": digest and ("file" if digest["sha256"] == sha256 else "pixels"),
            "iscc": {"code": code, "bits": None},
            "warning": _warning(manifest),
        }
        return told | (_weighed(claims, _codes_of(pixels, mark)) if claims else self._similar(code, pixels))

    def by_files(self, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what was traced, with what has no row looked up by its file's SHA-256, which older rows have alone."""
        lost = [each["sha256"] for each in found if each["verdict"] != Verdict.OURS and each["sha256"]]
        rows = self._index.of_files(lost) if self._index and lost else {}
        ours = {"verdict": Verdict.OURS, "found_by": ["digest"], "digest": "file", "why": None}
        return [
            each | ours | {"row": rows[each["sha256"]]} if each["sha256"] in rows else each for each in found
        ]

    def _manifest(self, body: bytes) -> tuple[Manifest | None, str | None]:
        """Return the manifest, or why it can't be read."""
        media_type = media_type_of(body)
        try:
            return (self._manifests.read(body, media_type) if media_type else None), None
        except UnreadableManifestError as error:
            return None, str(error)

    def _by_pixels(self, pixels: Pixels, file: str) -> list[_Claim]:
        if self._index is None or _is_plain(pixels):
            return []
        size = pixels.shape[1], pixels.shape[0]
        row = self._index.of_pixels(hashlib.sha256(pixels.tobytes()).hexdigest(), size, file)
        return [_Claim("digest", is_ours=True, row=row)] if row else []

    def _by_manifest(self, manifest: Manifest | None) -> list[_Claim]:
        """Return what a manifest of a trusted signer says: it is of the row that names it, whatever row it names."""
        if manifest is None or manifest.state is not ManifestState.TRUSTED:
            return []
        named = _IMAGE_URN.fullmatch(str((manifest.generation or {}).get("image", "")))
        if named is None:
            return []
        if self._index is None or not self._index.installations:
            return [_Claim("manifest", is_ours=None)]
        if UUID(named[1]) not in self._index.installations:
            return [_Claim("manifest", is_ours=False)]
        row = self._index.of_manifest(manifest.id)
        why = None if row else "its manifest says so, and no row has this manifest, or it is gone"
        return [_Claim("manifest", is_ours=True, row=row, why=why)]

    def _by_mark(self, mark: Mark | None) -> list[_Claim]:
        if mark is None:
            return []
        if self._index is None or not self._numbers:
            return [_Claim("mark", is_ours=None)]
        if mark.payload.installation not in self._numbers:
            return [_Claim("mark", is_ours=False)]
        if row := self._index.of_job(mark.payload.job):
            return [_Claim("mark", is_ours=True, row=row)]
        if row := self._index.copy_with_mark(mark.payload.hex):
            return [
                _Claim("mark", is_ours=True, row=row, why="the row is of a copy: that of the job is gone")
            ]
        return [_Claim("mark", is_ours=True, why="its row is gone, if there was one")]

    def _similar(self, code: str, pixels: Pixels) -> dict[str, Any]:
        nothing: dict[str, Any] = {"found_by": [], "row": None, "why": None}
        if self._index is None:
            why = "there is no manifest or mark in it, and neither database nor index is here to look it up"
            return nothing | {"verdict": Verdict.UNCLEAR, "why": why}
        if _is_plain(pixels):
            return nothing | {
                "verdict": Verdict.NONE,
                "why": "it has one colour; blackened images have no mark",
            }
        found = self._index.similar(code)
        if found is None:
            return nothing | {"verdict": Verdict.NONE}
        row, bits = found
        return {
            "verdict": Verdict.SIMILAR,
            "found_by": ["iscc"],
            "row": row,
            "iscc": {"code": code, "bits": bits},
            "why": f"{bits} of 64 bits of its ISCC code differ from the row's",
        }


def _weighed(claims: Sequence[_Claim], codes: Callable[[], tuple[Sequence[int], int]]) -> dict[str, Any]:
    """Return verdict and row by what layers say, of which a digest is a proof, and the others must fit one another."""
    rows = [claim.row for claim in claims if claim.row is not None]
    row = rows[0] if rows else None
    verdict, why = _judged(claims, row, rows, codes)
    return {"verdict": verdict, "found_by": [claim.layer for claim in claims], "row": row, "why": why}


def _judged(
    claims: Sequence[_Claim],
    row: ImageRow | None,
    rows: Sequence[ImageRow],
    codes: Callable[[], tuple[Sequence[int], int]],
) -> tuple[Verdict, str | None]:
    first = claims[0]
    if first.layer == "digest":
        return Verdict.OURS, None
    if len({claim.is_ours for claim in claims}) > 1 or any(not _is_same(row, other) for other in rows):
        return Verdict.UNCLEAR, f"{' and '.join(claim.layer for claim in claims)} contradict each other"
    if not first.is_ours:
        is_known = first.is_ours is not None
        return (Verdict.OTHERS, None) if is_known else (Verdict.UNCLEAR, _NO_INDEX)
    if row is None:
        return Verdict.UNCLEAR, first.why
    if _is_other_picture(row, *codes()):
        return Verdict.UNCLEAR, _OTHER_PICTURE
    return Verdict.OURS, next((claim.why for claim in claims if claim.row is row), None)


def _is_plain(pixels: Pixels) -> bool:
    """Whether a picture has one colour, as blackened ones: it is like any other of this colour."""
    return bool((pixels == pixels[0, 0]).all())


def _is_same(one: ImageRow | None, other: ImageRow) -> bool:
    """Whether two rows are the same, or copies of the same picture."""
    return one is not None and (one["image"] == other["image"] or one["sha256"] == other["sha256"])


def _codes_of(pixels: Pixels, mark: Mark | None) -> Callable[[], tuple[Sequence[int], int]]:
    """Return what computes the picture's ISCC codes, and in how many bits the row's may differ from the nearest.

    A picture whose mark was found by a search may be a part of the row's, or mirrored.
    """

    def codes() -> tuple[Sequence[int], int]:
        own = bits_of(image_code(pixels))
        if mark is None or mark.place is None:
            return [own], _OTHER_PICTURE_BITS
        if mark.payload.key_id != PUBLIC.number:
            return [own], _ANY_BITS  # some parts look like nothing of the whole, and few have the key
        return [own, bits_of(image_code(np.ascontiguousarray(pixels[:, ::-1])))], _OTHER_PART_BITS

    return codes


def _is_other_picture(row: ImageRow, codes: Sequence[int], most: int) -> bool:
    try:
        known = bits_of(str(row.get("iscc") or ""))
    except ValueError:
        return False  # nothing to compare with
    return min((known ^ code).bit_count() for code in codes) > most


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


def _warning(manifest: Manifest | None) -> str | None:
    """Return what is to be said of a manifest that doesn't fit the file, beside the verdict."""
    if manifest is None or manifest.state is not ManifestState.INVALID:
        return None
    what = (
        "the picture was changed since it was signed" if manifest.is_tampered else "the signature isn't valid"
    )
    return f"{what} ({', '.join(manifest.failures)})"
