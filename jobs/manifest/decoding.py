"""Lines of bytes as text."""

from jobs.manifest.raw import Broken
from jobs.manifest.streams import MAX_LINE

NOT_UTF8 = "is not valid UTF-8; save the file as UTF-8"
_TOO_LONG = f"line is over {MAX_LINE:,} bytes; shorten it"


def decoded(raw: bytes, line: int) -> str | Broken:
    """The text of a line; Broken if it is too long or isn't UTF-8."""
    if len(raw) > MAX_LINE:
        return Broken(line, _TOO_LONG, loose(raw))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return Broken(line, f"byte {error.start + 1} {NOT_UTF8}", loose(raw))


def loose(raw: bytes) -> str:
    """The beginning of a line, for people to recognise it by."""
    return raw[:1000].decode("utf-8", "replace")
