"""Weighs what the layers of a picture say of its origin: whose it is, and which row."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from console.provenance_lookup.image_index import ImageRow
from models.provenance.iscc_code import bits_of

_OTHER_PICTURE = (
    "it looks like another picture than its row's: its job had another image before, or what says so was put there by "
    "somebody else"
)
_TOO_PLAIN = (
    "it is too plain to be compared with its row's picture, and its mark alone says too little: under the public key "
    "anybody can put it there"
)
_HASH = re.compile("[0-9a-f]{16}")
_MOST_HASH_BITS = 4
"""Of 64: JPEG and half the size changed the hashes of 350 pictures in up to so many."""
_NO_INDEX = "neither a database here nor the `_SUCCESS` of an index tells whose it is"


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
class Claim:
    """What one layer says: whose a picture is (None: nobody here can tell), and the row; `why` there is none."""

    layer: str
    is_ours: bool | None
    row: ImageRow | None = None
    why: str | None = None


@dataclass(frozen=True)
class Likeness:
    """The ISCC code of a picture, and in how many bits it may differ from that of its row.

    `phash` is its perceptual hash, which compression changes less in smooth pictures; none of what may be a part.
    `is_plain`: codes and hashes of so plain a picture say nothing, as compression changes them.
    """

    code: str
    most_bits: int
    phash: str | None = None
    is_plain: bool = False


def weigh(claims: Sequence[Claim], likeness: Likeness) -> tuple[Verdict, ImageRow | None, str | None]:
    """Return verdict, row and reason by what layers say: a digest is a proof, the others must fit one another."""
    rows = [claim.row for claim in claims if claim.row is not None]
    verdict, why = _judged(claims, rows, likeness)
    return verdict, rows[0] if rows else None, why


def _judged(
    claims: Sequence[Claim], rows: Sequence[ImageRow], likeness: Likeness
) -> tuple[Verdict, str | None]:
    first = claims[0]
    if first.layer == "digest":
        return Verdict.OURS, None
    if len({claim.is_ours for claim in claims}) > 1 or not all(_is_same(rows[0], other) for other in rows):
        return Verdict.UNCLEAR, f"{' and '.join(claim.layer for claim in claims)} contradict each other"
    if not first.is_ours:
        is_known = first.is_ours is not None
        return (Verdict.OTHERS, None) if is_known else (Verdict.UNCLEAR, first.why or _NO_INDEX)
    if not rows:
        return Verdict.UNCLEAR, first.why
    if _is_other_picture(rows[0], likeness):
        gone = next((claim.why for claim in claims if claim.row is None), None)
        return Verdict.UNCLEAR, gone or (_TOO_PLAIN if likeness.is_plain else _OTHER_PICTURE)
    return Verdict.OURS, next((claim.why for claim in claims if claim.row is rows[0]), None)


def _is_same(one: ImageRow, other: ImageRow) -> bool:
    """Whether two rows are the same, or copies of the same picture."""
    return bool(one["image"] == other["image"] or one["sha256"] == other["sha256"])


def _is_other_picture(row: ImageRow, likeness: Likeness) -> bool:
    try:
        known = bits_of(str(row.get("iscc") or ""))
    except ValueError:
        return False  # nothing to compare with
    is_near = (known ^ bits_of(likeness.code)).bit_count() <= likeness.most_bits
    return not is_near and not _has_same_hash(row, likeness)


def _has_same_hash(row: ImageRow, likeness: Likeness) -> bool:
    known = str(row.get("phash") or "")
    if likeness.phash is None or not _HASH.fullmatch(known):
        return False
    return (int(known, 16) ^ int(likeness.phash, 16)).bit_count() <= _MOST_HASH_BITS
