"""Read JSON documents: an array of rows, concatenated objects, or one object that contains a table."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from jobs.errors import ManifestError
from jobs.manifest.columns.header import check_header
from jobs.manifest.formats.json_lines import read_carefully, refuse_constant
from jobs.manifest.formats.json_tables import NoTableError, expand, table_of
from jobs.manifest.raw_record import Broken, Record, Records
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.reading.decompressed_lines import MAX_LINE
from jobs.manifest.values import printable, shown

MAX_DOCUMENT = 2**27
MAX_TABLE = 2**24
_MAX_NESTING = 1_000
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_MARGIN = b" \t\r\n\xef\xbb\xbf"


def read_json(chunks: Iterator[bytes], label: str, renames: Mapping[str, str], counts: LineCounts) -> Records:
    """Read the rows of a document. A row's `line` is the line where it begins, or its number in an object's table.

    Raises ManifestError if the document as a whole isn't JSON or contains no rows of a known form.
    """
    body = _whole(chunks, label)
    _check_rows(body, label)
    for number, (line, raw) in enumerate(_values(body, label)):
        if number == 0 and raw[:1] not in {b"{", b'"'}:
            raise ManifestError(
                f"{label}: is an array of {_elements(raw)}; one of objects or of prompts is read."
            )
        is_only = number == 0 and len(raw) == len(body.strip(_MARGIN))
        for record in _records(line, raw, is_only, label, renames):
            counts.lines += 1
            yield record


def _check_rows(body: bytes, label: str) -> None:
    """Raise ManifestError for a document that is a single number, text, true, false or null."""
    if body.lstrip(_MARGIN)[:1] in {b"[", b"{"}:
        return
    try:
        value = json.loads(body.strip(_MARGIN), parse_constant=refuse_constant)
    except ValueError:
        return
    raise ManifestError(
        f"{label}: is JSON, but holds {shown(value)} alone and no rows; "
        "write an array of objects or of prompts, or one object a line."
    )


def _elements(raw: bytes) -> str:
    return "arrays, which don't name their columns" if raw.startswith(b"[") else "numbers or the like"


def _records(
    line: int, raw: bytes, is_only: bool, label: str, renames: Mapping[str, str]
) -> Sequence[Record | Broken]:
    """Return the rows of one value of a document."""
    limit = MAX_TABLE if is_only else MAX_LINE
    if len(raw) > limit:
        raise ManifestError(
            f"{label}: line {line}: an object has over {limit:,} bytes; write the rows as JSON Lines (jq -c)."
        )
    if raw.startswith(b'"'):
        return [_text(line, raw)]
    record = read_carefully(line, raw, limit)
    if is_only and isinstance(record, Broken):
        raise ManifestError(f"{label}: line {line}: {record.reason}.")
    if record is None or isinstance(record, Broken):
        return [record or Broken(line, "there is nothing between two commas", "")]
    if is_only:
        return _table(record, label, renames)
    return expand(record, renames)


def _text(line: int, raw: bytes) -> Record | Broken:
    """Read an element that is a string: the prompt."""
    try:
        return Record(line, {"prompt": json.loads(raw)}, raw, True)
    except ValueError as error:
        return Broken(line, f"is not JSON: {error}", raw)


def _table(record: Record, label: str, renames: Mapping[str, str]) -> list[Record | Broken]:
    try:
        rows = table_of(record.values, renames)
    except NoTableError as error:
        raise ManifestError(f"{label}: {error}.") from None
    if rows is None:
        check_header(list(record.values), renames, label)
        return [record]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        check_header(names, renames, label)
    return [
        Record(number, row, json.dumps(row, ensure_ascii=False), True) for number, row in enumerate(rows, 1)
    ]


def _whole(chunks: Iterator[bytes], label: str) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_DOCUMENT:
            raise ManifestError(
                f"{label}: is a JSON document of over {MAX_DOCUMENT:,} bytes; write it as JSON Lines, "
                "as jq -c '.[]' does."
            )
    return bytes(body)


def _values(body: bytes, label: str) -> Iterator[tuple[int, bytes]]:
    """Yield the objects of a document, or the elements of its arrays, with the lines on which they begin."""
    place = _Place(body, label)
    depth, start, is_array = 0, 0, False
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in (b"[", b"{"):
            if depth == 0:
                place.check_gap(start, match.start())
                is_array = token == b"["
                start = match.end() if is_array else match.start()
            depth += 1
            if depth > _MAX_NESTING:
                raise ManifestError(f"{label}: is nested more than {_MAX_NESTING:,} levels deep; flatten it.")
        elif token in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                found = place.value(start, match.start() if is_array else match.end())
                if found[1]:  # else a comma before the end, or an empty array
                    yield found
                start = match.end()
        elif token == b"," and depth == 1 and is_array:
            yield place.value(start, match.start())
            start = match.end()
        if depth < 0 or token == b'"':
            break
    if depth:
        raise ManifestError(f"{label}: is cut off or not JSON: a bracket or quote is not closed.")
    place.check_gap(start, len(body))


class _Place:
    """Finds the line numbers of a document's values, which must be requested in order."""

    def __init__(self, body: bytes, label: str) -> None:
        self._body = body
        self._label = label
        self._line = 1
        self._counted = 0

    def value(self, start: int, end: int) -> tuple[int, bytes]:
        """Return the line on which a value begins, and the value without surrounding white space."""
        raw = self._body[start:end].lstrip(_MARGIN)
        begin = end - len(raw)
        self._line += self._body.count(b"\n", self._counted, begin)
        self._counted = begin
        return self._line, raw.rstrip(_MARGIN)

    def check_gap(self, start: int, end: int) -> None:
        """Raise ManifestError if there is anything but white space and commas between two values."""
        rest = self._body[start:end].strip(_MARGIN + b",")
        if rest:
            text = printable(rest[:60].decode("utf-8", "replace"), 60)
            line = self._line + self._body.count(b"\n", self._counted, start)
            raise ManifestError(f"{self._label}: is not JSON from line {line} on: '{text}'.")
