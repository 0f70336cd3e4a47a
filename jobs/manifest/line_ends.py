"""Lines, whatever ends them: LF, CRLF, or CR alone as on old Macs."""

from collections.abc import Iterator
from itertools import chain


def with_lf(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Chunks whose lines end in LF; for formats in which a CR is nothing but an end of line."""
    ends_in_cr = False
    for chunk in chunks:
        if ends_in_cr:
            chunk = b"\r" + chunk  # noqa: PLW2901 - it may belong to the LF that follows
        ends_in_cr = chunk.endswith(b"\r")
        if ends_in_cr:
            chunk = chunk[:-1]  # noqa: PLW2901
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk
    if ends_in_cr:
        yield b"\n"


def with_lf_if_none(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same for a file that begins without any LF; other files keep what is in their quotes."""
    first = next(chunks, b"")
    rest = chain([first], chunks)
    return rest if b"\n" in first or b"\r" not in first else with_lf(rest)
