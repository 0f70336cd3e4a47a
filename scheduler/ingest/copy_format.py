"""Writes rows in the text format of PostgreSQL's COPY, without a driver's adaptation of values, for speed.

https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
"""

import json
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import orjson
from psycopg import Copy, Cursor
from psycopg.copy import LibpqWriter

BLOCK_LINES = 500
BLOCK_CHARACTERS = 500_000
NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def to_json(value: dict[str, Any]) -> str:
    """Return a serialisable value as JSON, characters beyond ASCII unescaped."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers of more than 64 bits
        return json.dumps(value, ensure_ascii=False)


def cell(text: str | None) -> str:
    """Escape text as a cell of COPY; None is NULL."""
    if text is None:
        return NULL
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        return text.translate(_ESCAPES)
    return text


def cells(*texts: str) -> str:
    """Escape texts without NUL characters as tab-separated cells of COPY, all in one pass."""
    joined = "\0".join(texts)
    if "\\" in joined or "\t" in joined or "\n" in joined or "\r" in joined:
        joined = joined.translate(_ESCAPES)
    return joined.replace("\0", "\t")


class CopyStream:
    """A COPY into one table that starts with the first line added, and restarts with the first one after `finish`.

    While it is open its connection can execute no other statement. Leaving the block by an exception undoes it.
    """

    def __init__(self, cursor: Cursor[Any], table: str, columns: str) -> None:
        self._cursor = cursor
        self._statement = f"COPY {table} ({columns}) FROM STDIN"
        self._open = ExitStack()
        self._copy: Copy | None = None
        self._lines: list[str] = []
        self._characters = 0

    def add(self, line: str) -> None:
        """Send a line: tab-separated cells ending in a newline."""
        self._lines.append(line)
        self._characters += len(line)
        if len(self._lines) >= BLOCK_LINES or self._characters >= BLOCK_CHARACTERS:
            self._send()

    def finish(self) -> None:
        """Wait until the server has stored all lines."""
        if self._lines:
            self._send()
        self._copy = None
        self._open.close()

    def _send(self) -> None:
        self._copy = self._copy or self._open.enter_context(
            self._cursor.copy(self._statement, writer=LibpqWriter(self._cursor))
        )
        self._copy.write("".join(self._lines))
        self._lines.clear()
        self._characters = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        self._open.__exit__(kind, error, trace)
