"""Decode lines as UTF-8."""

from jobs.manifest.raw_record import Broken
from jobs.manifest.reading.decompressed_lines import MAX_LINE

NOT_UTF8 = "is not valid UTF-8; save the file as UTF-8"


def decoded(raw: bytes, line: int, limit: int = MAX_LINE) -> str | Broken:
    """Decode a line; Broken if it has over `limit` bytes or isn't UTF-8."""
    if len(raw) > limit:
        return Broken(line, f"line is over {limit:,} bytes; shorten it", loose(raw))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return Broken(line, f"byte {error.start + 1} {NOT_UTF8}", loose(raw))


def loose(raw: bytes) -> str:
    """Decode the first 1000 bytes of a line for display, replacing invalid bytes."""
    return raw[:1000].decode("utf-8", "replace")
