"""Handling of unexpected errors: one line for the user, the traceback in a log file."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from jobs.errors import NightmillError
from jobs.logs.line_formats import without_quoted_rows
from jobs.logs.log_files import older, open_log
from jobs.logs.start_logging import log, logs_json
from jobs.mask_passwords_and_escape_text import visible, without_secrets
from jobs.services.sockets import own_temporary_folder

NAME = "errors.log"
MAX_BYTES = 2**20
"""A log of this size is rotated; one older log is kept."""
_MAX_ENTRY = 2**18


@contextmanager
def plain_errors() -> Iterator[None]:
    """Exit with an error message instead of a traceback; the exit code is 1 or the error's own."""
    try:
        yield
    except NightmillError as error:
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _end(note_unexpected(error), 1)


def _end(message: str, code: int) -> None:
    if logs_json():
        log.critical("%s", message)
        sys.exit(code)
    sys.stderr.write(f"error: {visible(without_secrets(message))}\n")
    sys.exit(code)


def note_unexpected(error: BaseException) -> str:
    """Append the traceback to `errors.log` in the data folder's logs and return the message to show; never raises."""
    words = visible(without_secrets(str(error))).strip().splitlines()
    what = f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
    return f"this should not happen, {what[:300]}; {_written(error)}"


def _written(error: BaseException) -> str:
    """Write the traceback to the first log that can be written; return the text that says where it is."""
    trace = without_quoted_rows(without_secrets("".join(traceback.format_exception(error))))
    head = (
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {os.getpid()} {visible(' '.join(sys.argv[:2]))}\n"
    )
    entry = head.encode("utf-8", "backslashreplace") + _shortened(trace.encode("utf-8", "backslashreplace"))
    for path in _log_paths():
        try:
            _rotate(path)
            with open_log(path) as stream:
                stream.write(entry)
        except OSError:
            continue
        return f"the traceback is in {path}"
    return f"and no log can be written\n{trace}"


def _shortened(trace: bytes) -> bytes:
    """Return the traceback, reduced to its beginning and end if it is longer than `_MAX_ENTRY` bytes."""
    half = _MAX_ENTRY // 2
    return trace if len(trace) <= _MAX_ENTRY else trace[:half] + b"\n[...]\n" + trace[-half:]


def _rotate(path: Path) -> None:
    """Rotate a full log, keeping one older log; of a symbolic link, the link itself is renamed."""
    with suppress(FileNotFoundError):
        if path.lstat().st_size >= MAX_BYTES:
            path.replace(older(path))


def _log_paths() -> list[Path]:
    """Return the log paths to try: in the data folder if it exists, then in this user's temporary folder."""
    places = []
    data = Path(os.environ.get("NIGHTMILL_DATA_DIR", ".nightmill")).expanduser().absolute()
    if data.is_dir():
        places.append(data / "logs" / NAME)
    try:
        places.append(own_temporary_folder() / NAME)
    except Exception:
        return places
    return places
