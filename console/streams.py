"""Standard output and error as we need them: there, and able to take every character."""

import codecs
import io
import os
import sys
from typing import TextIO

ESCAPES = "nightmill-escapes"


def prepare_streams() -> None:
    """Open what the caller closed, and write what an encoding lacks as JSON does: \\u00e9.

    To be called before anything else is opened, which would get the number of a closed stream.
    """
    codecs.register_error(ESCAPES, _escaped)
    _fill_closed()
    sys.stdout = _there(sys.stdout)
    sys.stderr = _there(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPES)


def _fill_closed() -> None:
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _there(stream: TextIO | None) -> TextIO:
    return open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: PTH123


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end
