"""Signatures (magic bytes) of file types that are not manifests, with advice for the user."""

import re

from jobs.errors import ManifestError

PARQUET_MAGIC = b"PAR1"

_UNPACK = "unpack it; of packed files .gz and .zst are read"
_SHEET = "save it as CSV (UTF-8) or Parquet"
_PICTURE = "name pictures in a column of a manifest"
_DATASET = "write it as Parquet or JSON Lines"

# First bytes, file type, advice.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document, such as an .xls workbook", _SHEET),
    (b"%PDF", "a PDF document", "export its text"),
    (b"{\\rtf", "a rich text document (RTF)", "save it as plain text"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _PICTURE),
    (b"\xff\xd8\xff", "a JPEG picture", _PICTURE),
    (b"GIF8", "a GIF picture", _PICTURE),
    (b"SQLite format 3\0", "an SQLite database", "export a table of it as CSV"),
    (b"ARROW1", "an Arrow or Feather file", _DATASET),
    (b"FEA1", "a Feather file", _DATASET),
    (b"ORC", "an ORC file", _DATASET),
    (b"Obj\x01", "an Avro file", _DATASET),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _DATASET),
    (b"\x93NUMPY", "a NumPy array", _DATASET),
    (b"\x80\x02", "a Python pickle", _DATASET),
    (b"\x80\x03", "a Python pickle", _DATASET),
    (b"\x80\x04", "a Python pickle", _DATASET),
    (b"\x80\x05", "a Python pickle", _DATASET),
    (b"\x1f\x8b", "packed twice (gzip in a packed file)", "unpack it once"),
    (b"\x28\xb5\x2f\xfd", "packed twice (zstd in a packed file)", "unpack it once"),
    (b"BZh", "packed by bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "packed by xz", _UNPACK),
    (b"\x04\x22\x4d\x18", "packed by lz4", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull`",
    ),
)
_MARKUP = re.compile(rb"\s*(?:<!doctype\s+html|<html|<\?xml|<head[\s>])", re.IGNORECASE)
_ZIPPED = (
    (b"xl/", "an Excel workbook", _SHEET),
    (b"word/", "a Word document", "save it as plain text"),
    (b"vnd.oasis.opendocument.spreadsheet", "an OpenDocument spreadsheet", _SHEET),
    (b"[Content_Types].xml", "an Office document, such as an Excel workbook", _SHEET),
)
_UTF8_NOW = "save it as UTF-8"


def refuse_foreign(head: bytes, label: str) -> None:
    """Raise ManifestError for a file of another type, with its type and what to do."""
    found = _packed(head) or _marked(head) or _wide(head)
    if found:
        what, remedy = found
        raise ManifestError(f"{label}: is {what}; {remedy}.")


def _packed(head: bytes) -> tuple[str, str] | None:
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        inner = next(((what, remedy) for mark, what, remedy in _ZIPPED if mark in head[:8192]), None)
        return inner or ("a zip archive", _UNPACK)
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it and name a file of it"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP picture", _PICTURE
    return None


def _marked(head: bytes) -> tuple[str, str] | None:
    for start, what, remedy in _SIGNATURES:
        if head.startswith(start):
            return what, remedy
    if _MARKUP.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "an HTML or XML page, perhaps an error page in the place of a download", "get the file itself"
    return None


def _wide(head: bytes) -> tuple[str, str] | None:
    """Detect UTF-32 and UTF-16, by a byte order mark or by the positions of zero bytes."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32", _UTF8_NOW
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16", _UTF8_NOW
    sample = head[:1024]
    zeros = [_share_of_zeros(sample[place::4]) for place in range(4)]
    if len(sample) >= 8 and (min(zeros[1:]) > 0.7 > zeros[0] or min(zeros[:3]) > 0.7 > zeros[3]):
        return "UTF-32 without a byte order mark", _UTF8_NOW
    even, odd = _share_of_zeros(sample[::2]), _share_of_zeros(sample[1::2])
    if len(sample) >= 4 and max(even, odd) > 0.4 and min(even, odd) < 0.1:
        return "UTF-16 without a byte order mark", _UTF8_NOW
    return None


def _share_of_zeros(part: bytes) -> float:
    return part.count(0) / max(1, len(part))
