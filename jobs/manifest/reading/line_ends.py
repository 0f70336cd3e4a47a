"""Normalise line ends: LF, CRLF, or CR alone (old Macs)."""

import re
from collections.abc import Iterator
from itertools import chain

_NAMES = {
    "\v": "a vertical tab",
    "\f": "a form feed",
    "\x85": "a next-line character",
    "\u2028": "a line separator",
    "\u2029": "a paragraph separator",
}
_OTHER_ENDS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")


def other_line_end(text: str) -> str | None:
    """Return why a line with a Unicode line separator in it, ambiguous between programs, is refused; else None."""
    if len(text.splitlines()) < 2:  # much faster than the search
        return None
    found = _OTHER_ENDS.search(text)
    if found is None:
        return None
    name = _NAMES.get(found[0], "a separator")
    return (
        f"holds {name} (U+{ord(found[0]):04X}), which may be meant to end a line and ends none here; "
        "write a plain end of line, or a space"
    )


def with_lf(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Convert CRLF and CR to LF, for formats in which CR can only be a line end."""
    ends_in_cr = False
    for chunk in chunks:
        if ends_in_cr:
            chunk = b"\r" + chunk  # noqa: PLW2901 - the CR may be part of a CRLF
        ends_in_cr = chunk.endswith(b"\r")
        if ends_in_cr:
            chunk = chunk[:-1]  # noqa: PLW2901
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk
    if ends_in_cr:
        yield b"\n"


def with_lf_if_none(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Convert CR to LF if the first chunk has no LF; other files keep the CRs in their quoted cells."""
    first = next(chunks, b"")
    rest = chain([first], chunks)
    return rest if b"\n" in first or b"\r" not in first else with_lf(rest)
