"""Read JSON Lines: by orjson where its result is provably exact, else by a slower, strict decoder."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from json import JSONDecodeError, JSONDecoder
from typing import Any

import orjson

from jobs.manifest.formats.json_tables import expand
from jobs.manifest.raw_record import Broken, Record, Records, Shape, Shapes
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.reading.decompressed_lines import MAX_LINE, Lines
from jobs.manifest.reading.utf8 import decoded
from jobs.manifest.values import PLAIN_TYPES, is_visible

_LOOSE_COLONS = (b" :", b"\t:", b"\r:", b"\n:")
_RISKY_ESCAPE = re.compile(r"\\u(?:0000|[dD])")
_BEYOND_64_BITS = 2.0**63


def read_jsonl(lines: Lines, renames: Mapping[str, str], counts: LineCounts) -> Records:
    """Read one JSON object per line (RFC 8259, no NaN), or one batch input of many rows; blank lines are skipped."""
    shapes = Shapes()
    line = 0
    for line, raw in lines.numbered():
        if not raw:
            counts.blank += 1
            continue
        try:
            values = orjson.loads(raw) if len(raw) <= MAX_LINE else None
        except ValueError:
            values = None
        if type(values) is dict:
            shape = shapes.of(values)
            # Without doubtful columns and escapes, a duplicate key is detected by the number of quotation marks.
            if raw.count(b'"') == shape.quotes and b"\\" not in raw:
                yield Record(line, values, raw, False, None, shape)
                continue
            if _is_sure(raw, values, shape):
                yield Record(line, values, raw, b"\\u0000" in raw, None, shape)
                continue
        record = read_carefully(line, raw)
        if record is None:
            counts.blank += 1
        elif isinstance(record, Record) and "input_data" in record.values:
            rows = expand(record, renames)
            counts.lines += len(rows) - 1
            yield from rows
        else:
            yield record
    counts.lines += line


def _is_sure(raw: bytes, values: Mapping[str, Any], shape: Shape) -> bool:
    """Whether orjson's result is exact: it turns integers over 64 bits into floats, and drops duplicate keys."""
    for name in shape.doubtful:
        value = values[name]
        if not _are_exact(value if type(value) is list else (value,)):
            return False
    return _has_keys(raw, len(values))


def _are_exact(values: Iterable[object]) -> bool:
    return all(
        type(value) in PLAIN_TYPES or (type(value) is float and abs(value) < _BEYOND_64_BITS)
        for value in values
    )


def _has_keys(raw: bytes, count: int) -> bool:
    """Whether the JSON has exactly `count` keys at any depth, by the colons that follow them; False if unsure."""
    if raw.count(b'":') != count:
        return False
    return raw.count(b":") == count or not any(gap in raw for gap in _LOOSE_COLONS)


def read_carefully(line: int, raw: bytes, limit: int = MAX_LINE) -> Record | Broken | None:
    """Parse a line strictly, at a tenth of orjson's speed; Broken with a reason if invalid, None if blank."""
    text = decoded(raw, line, limit)
    if isinstance(text, Broken):
        return text
    text = text.lstrip("\ufeff")  # byte order mark of a concatenated file
    if not is_visible(text):
        return None
    try:
        values = _CAREFUL.decode(text)
    except (ValueError, RecursionError) as error:
        return Broken(line, _json_reason(error), text)
    if type(values) is not dict:
        return Broken(line, 'is not a JSON object; write it as {"prompt": "…"}', text)
    return Record(line, values, text, _RISKY_ESCAPE.search(text) is not None)


def refuse_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity, which Python's decoder accepts although they aren't JSON."""
    raise ValueError(f"holds {name}, which JSON doesn't have; use null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"has the key {json.dumps(twice[:60])} twice; keep one")
    return values


def _json_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply; flatten it"
    if isinstance(error, JSONDecodeError):
        return f"is not JSON: {error.msg} at character {error.colno}"
    if "integer string conversion" in str(error):
        return "holds a number of thousands of digits; write it as text"
    return str(error)


_CAREFUL = JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=_unique)
