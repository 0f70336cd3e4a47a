"""Standard output and error as we need them: able to take every character, and clear about what isn't written."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

ESCAPES = "nightmill-escapes"
_NAME = "standard output"


class Output(io.TextIOWrapper):
    """Standard output: what can't be written raises OSError that names it, unless its reader has gone.

    Who reads a pipe may have read enough (`| head`): what comes after that is dropped, and the command goes on to its
    own exit code.
    """

    is_unread = False
    """Whether the reader has gone."""

    def write(self, text: str, /) -> int:
        """As TextIOWrapper."""
        self._attempt(lambda: super(Output, self).write(text))
        return len(text)

    def flush(self) -> None:
        """As TextIOWrapper."""
        self._attempt(super().flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:
            self.is_unread = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, _NAME) from None


class ClosedOutput(io.TextIOBase):
    """Standard output that the caller has closed; only those who write to it are told."""

    def write(self, _: str, /) -> int:
        """Raise OSError."""
        raise OSError(errno.EBADF, "it is closed", _NAME)


class Remarks(io.TextIOWrapper):
    """Standard error: what can't be written there is dropped, since nothing that a command does rests on it."""

    def write(self, text: str, /) -> int:
        """As TextIOWrapper."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """As TextIOWrapper."""
        with suppress(OSError):
            super().flush()


def is_unread() -> bool:
    """Whether whoever read standard output has gone, so that nothing that is written there comes to anybody."""
    return isinstance(sys.stdout, Output) and sys.stdout.is_unread


def prepare_streams() -> None:
    """Open what the caller closed, and write what an encoding lacks as JSON does: \\u00e9.

    To be called before anything else is opened, which would get the number of a closed stream.
    """
    codecs.register_error(ESCAPES, _escaped)
    _fill_closed()
    sys.stdout = ClosedOutput() if sys.stdout is None else _kept(sys.stdout, Output)
    sys.stderr = _unheard() if sys.stderr is None else _kept(sys.stderr, Remarks)


def _unheard() -> TextIO:
    return Remarks(open(os.devnull, "wb"), "utf-8", ESCAPES)  # noqa: PTH123


def _kept(stream: TextIO, kind: type[io.TextIOWrapper]) -> TextIO:
    """The interpreter's own stream as `kind`; what somebody else has put in its place stays."""
    if type(stream) is not io.TextIOWrapper or stream not in (sys.__stdout__, sys.__stderr__):
        return stream  # it would close its file when it is dropped
    return kind(
        stream.buffer,
        stream.encoding,
        ESCAPES,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _fill_closed() -> None:
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end
