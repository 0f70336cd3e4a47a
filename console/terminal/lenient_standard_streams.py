"""Standard output and error that accept every character and report write errors clearly."""

import codecs
import errno
import fcntl
import io
import os
import select
import stat
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

ESCAPES = "nightmill-escapes"
_NAME = "standard output"


class Output(io.TextIOWrapper):
    """Standard output: write errors raise an OSError that names it, unless its reader has closed the pipe.

    The reader of a pipe may have read enough (`| head`): further output is dropped, and the command ends with its own
    exit code.
    """

    is_unread = False
    """Whether the reader has closed the pipe."""

    def write(self, text: str, /) -> int:
        """Write as TextIOWrapper does."""
        self._attempt(lambda: super(Output, self).write(text))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes past the encoding; the caller flushes."""
        self._attempt(lambda: self.buffer.write(data))

    def flush(self) -> None:
        """Flush as TextIOWrapper does."""
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
    """Replacement for a standard output that the caller has closed: only writing to it fails."""

    def write(self, _: str, /) -> int:
        """Raise OSError."""
        raise OSError(errno.EBADF, "it is closed", _NAME)


class Remarks(io.TextIOWrapper):
    """Standard error: write errors are ignored, since no result of a command depends on it."""

    def write(self, text: str, /) -> int:
        """Write as TextIOWrapper does."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as TextIOWrapper does."""
        with suppress(OSError):
            super().flush()


def is_unread() -> bool:
    """Whether the reader of standard output has closed the pipe, so that nobody reads further output."""
    return isinstance(sys.stdout, Output) and sys.stdout.is_unread


def was_read() -> bool:
    """Wait until the reader of a pipe has taken all that was flushed; false if it closed the pipe before.

    True at once where standard output is no pipe, or its system doesn't tell.
    """
    try:
        number = sys.stdout.fileno()
        if not stat.S_ISFIFO(os.fstat(number).st_mode):
            return not is_unread()
        closed = select.poll()
        closed.register(number, select.POLLERR)
        while (unread := struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, b"    "))[0]) > 0:
            if closed.poll(20):
                break
    except (OSError, ValueError):
        return not is_unread()
    return unread == 0 and not is_unread()


def prepare_streams() -> None:
    """Reopen streams that the caller closed, and escape what their encoding can't represent as JSON does: \\u00e9.

    Call this before anything else is opened, which would otherwise get the file descriptor of a closed stream.
    """
    codecs.register_error(ESCAPES, _escaped)
    _fill_closed()
    sys.stdout = ClosedOutput() if sys.stdout is None else _kept(sys.stdout, Output)
    sys.stderr = _discarded_stderr() if sys.stderr is None else _kept(sys.stderr, Remarks)


def _discarded_stderr() -> TextIO:
    return Remarks(open(os.devnull, "wb"), "utf-8", ESCAPES)  # noqa: PTH123


def _kept(stream: TextIO, kind: type[io.TextIOWrapper]) -> TextIO:
    """Wrap the interpreter's own stream as `kind`; a stream that somebody else has installed is kept."""
    if type(stream) is not io.TextIOWrapper or stream not in (sys.__stdout__, sys.__stderr__):
        return stream  # discarding it would close its file
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
