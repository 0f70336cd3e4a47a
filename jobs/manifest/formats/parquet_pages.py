"""Determine the unpacked sizes of a Parquet file's pages from their headers, before any page is read.

A page header is a struct in Thrift's compact protocol (parquet.thrift, PageHeader), for which there is no library.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

MAX_PAGES = 128 << 20
MAX_ROWS = 1000
_MAX_BATCH = 32 << 20
_MAX_LIST_VALUES = 2**23
_MAX_DEPTH = 16
_MAX_NAME = 2**16
_MAX_PARTS = 2**20
_BYTE_ARRAY = 6
_PLAIN, _DELTA_LENGTHS, _DELTA = 0, 6, 7
_DICTIONARY_PAGE = 2
_Fields = dict[int, Any]


class PageError(ValueError):
    """The file's pages or footer are damaged or too large; the message is the reason."""


@dataclass(frozen=True)
class Page:
    """A page of a column; sizes are in bytes, `values` counts every element of lists."""

    is_dictionary: bool
    packed: int
    unpacked: int
    values: int
    encoding: int


@dataclass(frozen=True)
class Chunk:
    """A column chunk of a row group, from the footer; `is_text`: its values have variable length."""

    path: str
    is_text: bool
    values: int
    packed: int
    start: int


@dataclass(frozen=True)
class Group:
    """A row group, from the footer."""

    rows: int
    chunks: tuple[Chunk, ...]


def read_groups(file: BinaryIO) -> list[Group]:
    """Read the row groups of the footer (FileMetaData). Raises PageError if it is damaged.

    pyarrow isn't used because it aborts the process if a damaged footer lacks a column.
    """
    file.seek(0, os.SEEK_END)
    end = file.tell()
    file.seek(max(0, end - 8))
    size = int.from_bytes(file.read(4), "little")
    file.seek(max(0, end - 8 - size))
    footer = _struct(BytesIO(file.read(size)), 0)
    return [Group(_number(group, 3), tuple(map(_chunk, _parts(group, 1)))) for group in _parts(footer, 4)]


def _chunk(raw: _Fields) -> Chunk:
    meta = raw.get(3) if isinstance(raw, dict) else None
    if not isinstance(meta, dict):
        raise PageError("is damaged: a column without metadata")
    names = meta.get(3)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise PageError("is damaged: a column without a name")
    starts = [_number(meta, 9), *([_number(meta, 11)] if meta.get(11) else [])]
    path = b".".join(names).decode("utf-8", "replace")
    return Chunk(path, meta.get(1) == _BYTE_ARRAY, _number(meta, 5), _number(meta, 7), min(starts))


def _parts(fields: _Fields, id: int) -> list[_Fields]:
    parts = fields.get(id)
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise PageError("is damaged: a footer without row groups or columns")
    return parts


def _number(fields: _Fields, id: int) -> int:
    number = fields.get(id)
    if not isinstance(number, int) or number < 0:
        raise PageError("is damaged: a footer without a number")
    return number


def rows_at_once(headers: BinaryIO, group: Group, widths: Sequence[int], names: Sequence[str]) -> int:
    """Return how many rows of the columns `names` of a row group to read at once, about 32 MiB.

    `widths` are the bytes of fixed-length values, by column. Raises PageError if the largest pages of the columns have
    over 128 MiB together, or one has over 8 million list elements.
    """
    if len(group.chunks) != len(widths):
        raise PageError("is damaged: a row group without all columns")
    rows = MAX_ROWS
    total = 0
    starts = tuple(f"{name}." for name in names)
    for chunk, width in zip(group.chunks, widths, strict=True):
        if not f"{chunk.path}.".startswith(starts):
            continue
        pages = list(_pages(headers, chunk))
        data = [page for page in pages if not page.is_dictionary]
        total += max((page.packed + page.unpacked for page in data), default=0)
        total += sum(page.unpacked for page in pages if page.is_dictionary)
        if total > MAX_PAGES:
            raise PageError(
                f"has pages of over {MAX_PAGES >> 20} MiB together, up to column {chunk.path} (data_page_size)"
            )
        rows = min(rows, _rows(chunk, data, group.rows, width))
        if chunk.is_text and chunk.path not in names:
            rows = min(rows, _rows_of_nested(pages, group.rows))
    return max(1, rows)


def delta_columns(headers: BinaryIO, groups: Sequence[Group], names: Sequence[str]) -> set[str]:
    """Return those of the columns `names` whose first data page in any row group has encoding DELTA_BYTE_ARRAY."""
    found = set()
    for chunk in (chunk for group in groups for chunk in group.chunks):
        if chunk.path in names and chunk.is_text:
            first = next((page for page in _pages(headers, chunk) if not page.is_dictionary), None)
            found |= {chunk.path} if first and first.encoding == _DELTA else set()
    return found


def _rows(column: Chunk, data: list[Page], rows: int, width: int) -> int:
    most = max((page.values for page in data), default=0)
    listed = sum(page.values for page in data) / max(1, rows)
    if listed > 1 and most > _MAX_LIST_VALUES:
        raise PageError(f"has a page of {most:,} values in column {column.path}; write smaller ones")
    heaviest = max((_bytes_each(page) for page in data), default=1.0) if column.is_text else max(width, 16)
    return int(_MAX_BATCH / max(1.0, heaviest * max(1.0, listed)))


def _rows_of_nested(pages: list[Page], rows: int) -> int:
    """Bound the rows for text in lists and structs, read without dictionary: each value may be as long as that."""
    longest = max((page.unpacked for page in pages if page.is_dictionary), default=0)
    values = sum(page.values for page in pages if not page.is_dictionary) / max(1, rows)
    return int(_MAX_BATCH / max(1.0, longest * max(1.0, values)))


def _bytes_each(page: Page) -> float:
    """Return an upper bound of a page's average text length; dictionary values are not expanded when read."""
    if page.encoding == _DELTA:  # each value may extend the one before by a few bytes
        return float(page.unpacked)
    return page.unpacked / max(1, page.values) if page.encoding in {_PLAIN, _DELTA_LENGTHS} else 16.0


def _pages(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    start, end, values = chunk.start, chunk.start + chunk.packed, 0
    while start < end and values < chunk.values:
        file.seek(start)
        page = _page(_struct(file, 0))
        values += 0 if page.is_dictionary else page.values
        start = file.tell() + page.packed
        yield page


def _page(header: _Fields) -> Page:
    unpacked, packed = header.get(2), header.get(3)
    if not isinstance(unpacked, int) or not isinstance(packed, int) or min(unpacked, packed) < 0:
        raise PageError("is damaged: a page without a size")
    v1, dictionary, v2 = (part if isinstance(part := header.get(id), dict) else {} for id in (5, 7, 8))
    head = v1 or v2 or dictionary
    encoding = head.get(4 if v2 else 2, 0)
    return Page(
        header.get(1) == _DICTIONARY_PAGE, packed, unpacked, max(0, int(head.get(1, 0))), int(encoding)
    )


def _struct(file: BinaryIO, depth: int) -> _Fields:
    fields: _Fields = {}
    last = 0
    while (head := _byte(file)) != 0:
        last = last + (head >> 4) if head >> 4 else _zigzag(file)
        fields[last] = _value(file, head & 15, depth)
    return fields


def _value(file: BinaryIO, kind: int, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise PageError("is damaged: a page header that is nested too deeply")
    match kind:
        case 1 | 2:
            return kind == 1
        case 3:
            return _byte(file)
        case 4 | 5 | 6:
            return _zigzag(file)
        case 7 | 8:
            return _bytes(file, 8 if kind == 7 else _varint(file))
        case 9 | 10:
            return _list(file, depth)
        case 12:
            return _struct(file, depth + 1)
    raise PageError("is damaged: a page header that can't be read")


def _list(file: BinaryIO, depth: int) -> list[Any]:
    head = _byte(file)
    count = _varint(file) if head >> 4 == 15 else head >> 4
    if count > _MAX_PARTS or (head & 15 in {1, 2} and count > 1000):
        raise PageError("is damaged: a page header that can't be read")
    return [_value(file, head & 15, depth + 1) for _ in range(count)]


def _bytes(file: BinaryIO, size: int) -> bytes | None:
    if size <= _MAX_NAME:
        return file.read(size)
    file.seek(size, os.SEEK_CUR)
    return None


def _byte(file: BinaryIO) -> int:
    data = file.read(1)
    if not data:
        raise PageError("is truncated: a page lies behind its end")
    return data[0]


def _varint(file: BinaryIO) -> int:
    number = shift = 0
    while shift < 64:
        byte = _byte(file)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7
    raise PageError("is damaged: a page header that can't be read")


def _zigzag(file: BinaryIO) -> int:
    number = _varint(file)
    return (number >> 1) ^ -(number & 1)
