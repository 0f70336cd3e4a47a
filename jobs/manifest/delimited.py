"""CSV (RFC 4180) and TSV, record by record, with line numbers that stay right across quoted newlines."""

import re
from collections.abc import Iterator, Sequence

from jobs.manifest.streams import MAX_LINE, Lines

_REST_OF_QUOTED = re.compile(r'((?:[^"]++|"")*+)"')


class BadQuotesError(ValueError):
    """The quotes of a record don't pair up; the message is for the user."""


class _Record:
    """One record that grows line by line until its quotes are closed."""

    def __init__(self, delimiter: str, lenient: bool, literal: bool = False) -> None:
        self.cells: list[str] = []
        self._delimiter = delimiter
        self._lenient = lenient
        self._literal = literal
        self._open: list[str] | None = None

    def feed(self, line: str) -> bool:
        """Add a physical line (without LF); True when the record is complete."""
        body = line.removesuffix("\r")
        at = 0 if self._open is None else self._close(self._open, line, body)
        last = body.rfind('"')
        while 0 <= at <= last:
            at = self._quoted(line, body, at) if body.startswith('"', at) else self._bare(body, at)
        if last < at <= len(body):
            self.cells.extend(body[at:].split(self._delimiter))
        return self._open is None

    def _bare(self, body: str, at: int) -> int:
        end = body.find(self._delimiter, at)
        end = len(body) if end < 0 else end
        self.cells.append(body[at:end])
        return end + 1

    def _quoted(self, line: str, body: str, at: int) -> int:
        match = _REST_OF_QUOTED.match(line, at + 1)
        if match is None:
            if self._literal:
                return self._bare(body, at)
            self._open = [line[at + 1 :] + "\n"]
            return -1
        end = match.end()
        if end < len(body) and body[end] != self._delimiter:
            if self._lenient:
                return self._bare(body, at)
            raise BadQuotesError("text follows a closing quote; double the quotes that belong to the text")
        self.cells.append(match[1].replace('""', '"'))
        return end + 1

    def _close(self, parts: list[str], line: str, body: str) -> int:
        match = _REST_OF_QUOTED.match(line)
        if match is None:
            parts.append(line + "\n")
            return -1
        if match.end() < len(body) and body[match.end()] != self._delimiter:
            raise BadQuotesError("text follows a closing quote; double the quotes that belong to the text")
        self.cells.append("".join([*parts, match[1]]).replace('""', '"'))
        self._open = None
        return match.end() + 1


def read_quoted(lines: Lines, first: bytes, delimiter: str, width: int | None) -> Sequence[str]:
    """The cells of the record that starts with line `first`, which has quotes; takes more lines as it needs.

    `width` is the number of cells that a header promises. A TSV may have been written without any quoting,
    so there a quoted cell that isn't well formed is literal text. Raises BadQuotesError; invalid UTF-8 comes
    out as lone surrogates.
    """
    lenient = delimiter == "\t"
    record = _Record(delimiter, lenient)
    taken: list[bytes] = []
    try:
        if record.feed(_decode(first)):
            return record.cells
        for line in _up_to(lines, MAX_LINE - len(first)):
            taken.append(line)
            if record.feed(_decode(line)):
                break
        else:
            raise BadQuotesError("a quote is opened and never closed")
    except BadQuotesError as error:
        if not lenient:
            where = f" (lines {lines.number - len(taken)} to {lines.number})" if taken else ""
            raise BadQuotesError(f"{error}{where}") from None
    else:
        if not lenient or width in {None, len(record.cells)}:
            return record.cells
    lines.put_back(taken)
    record = _Record(delimiter, lenient=True, literal=True)
    record.feed(_decode(first))
    return record.cells


def _up_to(lines: Lines, budget: int) -> Iterator[bytes]:
    for line in lines:
        yield line
        budget -= len(line) + 1
        if budget <= 0:
            return


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")
