"""Parse CSV (RFC 4180) and TSV record by record, with correct line numbers across quoted newlines."""

import re
from collections.abc import Collection, Iterator, Sequence

from jobs.manifest.reading.decompressed_lines import MAX_LINE, Lines

DELIMITERS = ("\t", ",", ";", "|")
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_REST_OF_QUOTED = re.compile(r'((?:[^"]++|"")*+)"[ \t]*+')
_BLANK = re.compile(r"[ \t]*+")


class BadQuotesError(ValueError):
    """The quotes of a record don't match; the message is shown to the user."""


def sep_line(line: str) -> str | None:
    """Return the separator given by a first line such as `sep=;`, an Excel convention; None for other lines."""
    match = _SEP_LINE.fullmatch(line)
    return match[1] if match else None


def find_delimiter(header: str, wanted: Collection[str]) -> str | None:
    """Return the delimiter given by a `sep=` line, or by which a header has one of the `wanted` names; else None."""
    names = {name.strip().lower() for name in wanted}
    named = sep_line(header)
    return named or next(
        (
            mark
            for mark in DELIMITERS
            if not names.isdisjoint(cell.strip(' "').lower() for cell in header.split(mark))
        ),
        None,
    )


class _Record:
    """A record, fed line by line until its quotes are closed."""

    def __init__(self, delimiter: str, lenient: bool, literal: bool = False) -> None:
        self.cells: list[str] = []
        self.has_bare_quotes = False
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
            quote = at if body[at] == '"' else self._after_blanks(body, at)
            at = self._quoted(line, body, at, quote) if body.startswith('"', quote) else self._bare(body, at)
        if last < at <= len(body):
            self.cells.extend(body[at:].split(self._delimiter))
        return self._open is None

    def _after_blanks(self, body: str, at: int) -> int:
        match = _BLANK.match(body, at)
        assert match
        return at if self._delimiter in match[0] else match.end()

    def _bare(self, body: str, at: int) -> int:
        end = body.find(self._delimiter, at)
        end = len(body) if end < 0 else end
        self.cells.append(body[at:end])
        self.has_bare_quotes |= '"' in self.cells[-1]
        return end + 1

    def _quoted(self, line: str, body: str, at: int, quote: int) -> int:
        match = _REST_OF_QUOTED.match(line, quote + 1)
        if match is None:
            if self._literal:
                return self._bare(body, at)
            self._open = [line[quote + 1 :] + "\n"]
            return -1
        end = self._end(match, body)
        if end is None:
            if self._lenient or quote > at:
                return self._bare(body, at)
            raise BadQuotesError("text follows a closing quote; double the quotes that belong to the text")
        self.cells.append(match[1].replace('""', '"'))
        return end + 1

    def _close(self, parts: list[str], line: str, body: str) -> int:
        match = _REST_OF_QUOTED.match(line)
        if match is None:
            parts.append(line + "\n")
            return -1
        end = self._end(match, body)
        if end is None:
            raise BadQuotesError("text follows a closing quote; double the quotes that belong to the text")
        self.cells.append("".join([*parts, match[1]]).replace('""', '"'))
        self._open = None
        return end + 1

    def _end(self, match: re.Match[str], body: str) -> int | None:
        """Return the end of the cell whose closing quote `match` found; None if text follows the quote."""
        end = match.end(1) + 1
        if end < len(body) and body[end] != self._delimiter:
            end = match.end()  # blanks after the quote
        return end if end >= len(body) or body[end] == self._delimiter else None


def read_quoted(lines: Lines, first: bytes, delimiter: str, width: int | None) -> Sequence[str]:
    """Return the cells of the quoted record that starts with line `first`, reading more lines as needed.

    `width` is the number of cells in the header, if known. A TSV may have been written without quoting, so a malformed
    quoted cell in it is taken as literal text. Raises BadQuotesError, after putting back the lines after a stray quote
    that are records of their own. Invalid UTF-8 becomes lone surrogates.
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
            raise _placed(error, lines, taken, delimiter, width) from None
    else:
        if not lenient or width in {None, len(record.cells)}:
            return record.cells
    lines.put_back(taken)
    record = _Record(delimiter, lenient=True, literal=True)
    record.feed(_decode(first))
    return record.cells


def _placed(
    error: BadQuotesError, lines: Lines, taken: list[bytes], delimiter: str, width: int | None
) -> BadQuotesError:
    """Return the error with its range of lines; if the lines after the first are valid records, put them back."""
    if not taken:
        return error
    if width is not None and all(_is_record(line, delimiter, width) for line in taken):
        lines.put_back(taken)
        return BadQuotesError("a quote is opened and never closed; double the quotes that belong to the text")
    return BadQuotesError(f"{error} (lines {lines.number - len(taken)} to {lines.number})")


def _is_record(line: bytes, delimiter: str, width: int) -> bool:
    """Whether a line is blank or has `width` cells with quotes around whole cells only."""
    record = _Record(delimiter, lenient=False)
    try:
        is_whole = record.feed(_decode(line))
    except BadQuotesError:
        return False
    fits = is_whole and not record.has_bare_quotes and len(record.cells) == width
    return fits or not line.strip()


def _up_to(lines: Lines, budget: int) -> Iterator[bytes]:
    for line in lines:
        yield line
        budget -= len(line) + 1
        if budget <= 0:
            return


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")
