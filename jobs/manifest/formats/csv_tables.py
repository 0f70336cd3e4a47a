"""Read the records of CSV and TSV tables with a header line."""

import re
from collections.abc import Mapping, Sequence

from jobs.errors import ManifestError
from jobs.manifest.columns.header import check_header, locate_columns
from jobs.manifest.columns.spelling import suggest
from jobs.manifest.formats.csv_parser import BadQuotesError, find_delimiter, read_quoted, sep_line
from jobs.manifest.raw_record import Broken, Record, Records
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.reading.decompressed_lines import MAX_LINE, Lines
from jobs.manifest.reading.line_ends import other_line_end
from jobs.manifest.reading.utf8 import NOT_UTF8, decoded, loose
from jobs.manifest.values import SURROGATE

_BOM = b"\xef\xbb\xbf"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+\s*")
_DECIMALS = ("guidance_scale", "strength")


def read_table(
    lines: Lines,
    default: str,
    told: str | None,
    label: str,
    renames: Mapping[str, str],
    counts: LineCounts,
) -> Records:
    """Read the rows below a header line; lines whose cells are all blank are skipped.

    The delimiter is the user's choice `told`, else that of an Excel `sep=` line or the one that fits the header, else
    `default`. Raises ManifestError for an unusable header.
    """
    header, delimiter = _read_header(lines, default, told, label, renames)
    counts.header = lines.number
    named = [name for name in header if name.strip()]
    check_header(named, renames, label, is_table=True)
    table = _Table(header, delimiter, renames)
    for raw in lines:
        if not raw:
            counts.blank += 1
            continue
        line = lines.number
        cells = _read_cells(lines, raw, delimiter, len(header))
        counts.continued += lines.number - line
        counts.lines = lines.number
        if isinstance(cells, Broken):
            yield cells
        elif (not cells[0] or cells[0].isspace()) and not any(cell.strip() for cell in cells):
            counts.blank += 1
        else:
            yield table.record(line, cells, raw)
    counts.lines = lines.number


class _Table:
    """Converts lists of cells into records."""

    def __init__(self, header: Sequence[str], delimiter: str, renames: Mapping[str, str]) -> None:
        self._header = list(header)
        self._width = len(header)
        self._unnamed = [place for place, name in enumerate(header) if not name.strip()]
        located = locate_columns([name for name in header if name.strip()], renames)
        self._decimals = [located[name] for name in _DECIMALS if name in located and delimiter == ";"]

    def record(self, line: int, cells: Sequence[str], raw: bytes) -> Record | Broken:
        if len(cells) != self._width:
            cells = self._padded(cells)
        if len(cells) != self._width:
            reason = (
                f"has {len(cells)} cells, the header has {self._width}; quote cells that hold the separator"
            )
            return Broken(line, reason, loose(raw))
        if cells[0] == self._header[0] and list(cells) == self._header:
            return Broken(line, "repeats the header, as joined files do; remove the line", loose(raw))
        values = dict(zip(self._header, cells, strict=True))
        if self._unnamed:
            self._name(values, cells)
        for name in self._decimals:
            if _DECIMAL_COMMA.fullmatch(values[name]):
                values[name] = values[name].replace(",", ".")
        return Record(line, values, raw, "\0" in "".join(cells))

    def _padded(self, cells: Sequence[str]) -> Sequence[str]:
        """Drop empty cells beyond the header, and add missing cells of unnamed columns."""
        if len(cells) > self._width and not any(cell.strip() for cell in cells[self._width :]):
            return cells[: self._width]
        absent = range(len(cells), self._width)
        return [*cells, *("" for _ in absent)] if {*absent} <= {*self._unnamed} else cells

    def _name(self, values: dict[str, str], cells: Sequence[str]) -> None:
        """Name non-blank cells of unnamed columns, which pandas and Excel add, by their position (`column 3`)."""
        for place in self._unnamed:
            values.pop(self._header[place], None)
            if cells[place].strip():
                values[f"column {place + 1}"] = cells[place]


def _read_header(
    lines: Lines, default: str, told: str | None, label: str, renames: Mapping[str, str]
) -> tuple[Sequence[str], str]:
    separator = None
    for raw in lines:
        if not raw.strip(b" \t\r\xef\xbb\xbf"):
            continue
        separator = sep_line(raw.removesuffix(b"\r").decode("utf-8", "replace"))
        if separator is None:
            break
        told = told or separator
    else:
        raise ManifestError(f"{label}: is empty; the first line has to be a header with a prompt column.")
    delimiter = told or _delimiter(raw, default, renames)
    cells = _read_cells(lines, raw, delimiter, None)
    if isinstance(cells, Broken):
        raise ManifestError(f"{label}: line {cells.line}: the header can't be read: {cells.reason}.")
    return cells, delimiter


def _delimiter(raw: bytes, default: str, renames: Mapping[str, str]) -> str:
    """Return the default delimiter, unless only another one yields a prompt or init_image column."""
    header = raw.decode("utf-8", "replace")
    wanted = {renames.get(column, column).strip().lower() for column in ("prompt", "init_image")}
    cells = [cell.strip(' "\r') for cell in header.split(default)]
    if any(cell.lower() in wanted or suggest(cell, ("prompt",)) for cell in cells):
        return default
    return find_delimiter(header.rstrip("\r"), wanted) or default


def _read_cells(lines: Lines, raw: bytes, delimiter: str, width: int | None) -> Sequence[str] | Broken:
    line = lines.number
    raw = raw.removeprefix(_BOM)  # byte order mark of a concatenated file
    if b'"' not in raw or len(raw) > MAX_LINE:
        text = decoded(raw, line)
        if isinstance(text, Broken):
            return text
        text = text.removesuffix("\r")
        reason = other_line_end(text)
        return Broken(line, reason, text) if reason else text.split(delimiter)
    try:
        cells = read_quoted(lines, raw, delimiter, width)
    except BadQuotesError as error:
        return Broken(line, str(error), loose(raw))
    if SURROGATE.search("".join(cells)):
        return Broken(line, f"a cell {NOT_UTF8}", loose(raw))
    return cells
