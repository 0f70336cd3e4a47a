"""How large the C2PA manifests in an image file are, by the file's own structure: nothing in them is read."""

from collections.abc import Iterator

from models.provenance.media_type import media_type_of

_PNG_BEGINS, _JPEG_BEGINS, _WEBP_BEGINS = 8, 2, 12
_JPEG_APP11, _JPEG_SCAN = 0xEB, 0xDA
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers without a length."""


def manifest_bytes(body: bytes) -> int:
    """Return the bytes of the manifests in a PNG, JPEG or WebP file; 0 if there are none, or the file is damaged.

    Of a JPEG whose segments can't be followed, the bytes of all that follows, which may be manifests.
    """
    match media_type_of(body):
        case "image/png":
            return sum(length for kind, length in _png_chunks(body) if kind == b"caBX")
        case "image/jpeg":
            return sum(length for kind, length in _jpeg_segments(body) if kind == _JPEG_APP11)
        case "image/webp":
            return sum(length for kind, length in _webp_chunks(body) if kind == b"C2PA")
    return 0


def _png_chunks(body: bytes) -> Iterator[tuple[bytes, int]]:
    at = _PNG_BEGINS
    while at + 8 <= len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        yield body[at + 4 : at + 8], length
        at += 12 + length


def _jpeg_segments(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and length of each segment before the picture's data."""
    at = _JPEG_BEGINS
    while at + 4 <= len(body) and body[at + 1] != _JPEG_SCAN:
        if body[at] != 0xFF:
            yield _JPEG_APP11, len(body) - at
            return
        if body[at + 1] == 0xFF:  # any number of these may precede a marker
            at += 1
        elif body[at + 1] in _JPEG_ALONE:
            at += 2
        else:
            length = int.from_bytes(body[at + 2 : at + 4], "big")
            yield body[at + 1], length
            at += 2 + length


def _webp_chunks(body: bytes) -> Iterator[tuple[bytes, int]]:
    at = _WEBP_BEGINS
    while at + 8 <= len(body):
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        yield body[at : at + 4], length
        at += 8 + length + length % 2
