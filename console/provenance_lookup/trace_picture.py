"""Traces one picture: asks the signed manifest, the mark, digests and the ISCC code, and weighs what they say.

Imported where the worker's packages are.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from console.provenance_lookup.image_index import ImageIndex, ImageRow
from console.provenance_lookup.look_up_rows_by_digest_c2pa_and_watermark import ClaimLookup, is_plain
from console.provenance_lookup.weigh_claims import Likeness, Verdict, weigh
from jobs.images.decode_picture import decode_picture, flattened, why_seen_otherwise
from jobs.input_image_access import PictureRefusedError
from jobs.setting_values.watermark_key import PUBLIC
from models.assess.perceptual_hash import perceptual_hash
from models.provenance.iscc_code import BITS, image_code
from models.provenance.media_type import media_type_of
from models.provenance.read_manifest import Manifest, ManifestReader, ManifestState, UnreadableManifestError
from models.watermark.blocks import Pixels
from models.watermark.tiled.identify_mark import Mark, identify
from models.watermark.tiled.perceptual_analysis import luma_of

_OTHER_PICTURE_BITS, _OTHER_PART_BITS = 20, 26
"""Of 64: codes of two pictures that have nothing in common differ in about 32 bits, those of a picture and a compressed
or smaller copy in a few, and of a picture and a part of it in up to so many."""


_MOST_TRIED = 4
"""A wrong one of so many readings fits by chance in one of 16,000 pictures whose mark is too damaged to be read."""
_UNREADABLE_MANIFEST: Mapping[str, Any] = {
    **dict.fromkeys(("id", "is_tampered", "signer", "generator", "source_type", "generation")),
    "failures": [],
    "ingredients": [],
}
_PLAIN_SIDE, _LEAST_CONTRAST = 16, 2.0
"""A picture of less contrast, in grey levels, when it has 16 x 16 pixels is plain: what its codes say is noise."""


class PictureTracer:
    """Traces pictures by keys of marks, trusted authorities and an index of image rows, or without such an index."""

    def __init__(
        self, keys: Mapping[int, bytes], trusted: bytes, index: ImageIndex | None, *, searches: bool
    ) -> None:
        """`trusted` are PEM certificates; `searches`: look for marks of cropped, mirrored and turned pictures, too."""
        self._keys, self._index, self._searches = keys, index, searches
        self._manifests = ManifestReader(trusted)
        self._lookup = ClaimLookup(index)

    def trace(
        self, body: bytes, location: str, read_sidecar: Callable[[], bytes | None] = lambda: None
    ) -> dict[str, Any]:
        """Return what each layer says of a file, the verdict, and the image's row, as JSON values.

        `read_sidecar` returns the manifest beside the file; it is asked where none is in the file. Raises
        PictureRefusedError if it is no picture.
        """
        image = decode_picture(body, location)
        pixels = np.asarray(flattened(image))
        code = image_code(pixels)
        manifest, problem, is_beside = self._manifest(body, read_sidecar)
        mark = identify(pixels, self._keys, searches=False)
        sha256 = hashlib.sha256(body).hexdigest()
        claims = self._lookup.claims(pixels, sha256, manifest, mark)
        if self._searches and not claims and (mark := identify(pixels, self._keys, searches=True)):
            claims = self._lookup.by_mark(mark)
        digest = claims[0].row if claims and claims[0].layer == "digest" else None
        told: dict[str, Any] = {
            "sha256": sha256,
            "manifest": _told_of_manifest(manifest, problem, is_beside=is_beside),
            "mark": _told_of_mark(mark),
            "digest": digest and ("file" if digest["sha256"] == sha256 else "pixels"),
            "iscc": {"code": code, "bits": None},
            "warning": _warning(manifest, problem, is_beside=is_beside),
        }
        if not claims:
            return told | self._similar(code, pixels)
        verdict, row, why = weigh(claims, _likeness(pixels, code, mark))
        doubt = why_seen_otherwise(body, image)
        if verdict is Verdict.OURS and doubt and row is not None and row["sha256"] != sha256:
            verdict, why = Verdict.UNCLEAR, doubt
        if manifest is None and problem is None and row is not None:
            told["warning"] = _missing(row, sha256)
        return told | {
            "verdict": verdict,
            "found_by": [claim.layer for claim in claims],
            "row": row,
            "why": why,
        }

    def by_files(self, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what was traced, with what has no row looked up by its file's SHA-256, which older rows have alone."""
        lost = [each["sha256"] for each in found if each["verdict"] != Verdict.OURS and each["sha256"]]
        rows = self._index.of_files(lost) if self._index and lost else {}
        ours = {"verdict": Verdict.OURS, "found_by": ["digest"], "digest": "file", "why": None}
        return [
            each | ours | {"row": rows[each["sha256"]]} if each["sha256"] in rows else each for each in found
        ]

    def _manifest(
        self, body: bytes, read_sidecar: Callable[[], bytes | None]
    ) -> tuple[Manifest | None, str | None, bool]:
        """Return the manifest, or why it can't be read, and whether it is the one beside the file."""
        media_type = media_type_of(body)
        if media_type is None:
            return None, None, False
        try:
            if found := self._manifests.read(body, media_type):
                return found, None, False
        except UnreadableManifestError as error:
            return None, str(error), False
        try:
            sidecar = read_sidecar()
            found = None if sidecar is None else self._manifests.read(body, media_type, sidecar)
        except (PictureRefusedError, UnreadableManifestError) as error:
            return None, str(error), True
        return found, None, found is not None

    def _similar(self, code: str, pixels: Pixels) -> dict[str, Any]:
        nothing: dict[str, Any] = {"found_by": [], "row": None, "why": None}
        if self._index is None:
            why = "there is no manifest or mark in it, and neither database nor index is here to look it up"
            return nothing | {"verdict": Verdict.UNCLEAR, "why": why}
        if is_plain(pixels):
            return nothing | {
                "verdict": Verdict.NONE,
                "why": "it has one colour, and so neither a mark nor a code to look up",
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


def _likeness(pixels: Pixels, code: str, mark: Mark | None) -> Likeness:
    """Return how like its row a picture must be; one whose mark was searched for may be a part of it, or mirrored.

    Some parts look like nothing of the whole, and so do plain pictures: there a mark under a secret key, which few
    have, is enough, unless it was found among so many readings that a wrong one may fit.
    """
    if mark is None:
        return Likeness(code, _OTHER_PICTURE_BITS, perceptual_hash(pixels))
    is_part, is_plain = mark.place is not None, _contrast(pixels) < _LEAST_CONTRAST
    if mark.place is not None and mark.place.is_mirrored:
        code = image_code(np.ascontiguousarray(pixels[:, ::-1]))
    if (is_part or is_plain) and mark.payload.key_id != PUBLIC.number and mark.tried <= _MOST_TRIED:
        return Likeness(code, BITS)
    if not is_part:
        return Likeness(code, _OTHER_PICTURE_BITS, perceptual_hash(pixels), is_plain)
    return Likeness(code, _OTHER_PART_BITS, is_plain=is_plain)


def _contrast(pixels: Pixels) -> float:
    """Return the standard deviation of the luma of a thumbnail, 0 to 128."""
    thumbnail = cv2.resize(pixels, (_PLAIN_SIDE, _PLAIN_SIDE), interpolation=cv2.INTER_AREA)
    return float(luma_of(thumbnail).std())


def _told_of_manifest(
    manifest: Manifest | None, problem: str | None, *, is_beside: bool
) -> dict[str, Any] | None:
    if manifest is None:
        unreadable = {"state": "unreadable", "why": problem, "is_beside": is_beside}
        return {**_UNREADABLE_MANIFEST, **unreadable} if problem else None
    return {
        "is_beside": is_beside,
        "id": manifest.id,
        "state": manifest.state,
        "why": None,
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


def _missing(row: ImageRow, sha256: str) -> str | None:
    """Return what is to be said of one of our files whose manifest was beside it, and isn't any more."""
    has_lost = row["sha256"] == sha256 and row.get("c2pa_sidecar_sha256")
    return "its row has a manifest (c2pa_sidecar_sha256), which isn't beside it" if has_lost else None


def _warning(manifest: Manifest | None, problem: str | None, *, is_beside: bool) -> str | None:
    """Return what is to be said of a manifest that doesn't fit the file, beside the verdict."""
    if manifest is None and problem:
        return f"the manifest {'beside' if is_beside else 'in'} it can't be read: {problem}"
    if manifest is None or manifest.state is not ManifestState.INVALID:
        return None
    if not manifest.is_tampered:
        what = "the signature isn't valid"
    elif is_beside:
        what = "the picture was changed since it was signed, or the manifest beside it is another picture's"
    else:
        what = "the picture was changed since it was signed"
    return f"{what} ({', '.join(manifest.failures)})"
