"""Every format as one stream: a record of values by column name, or a broken record with its reason."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from json import JSONDecodeError, JSONDecoder
from typing import Any, assert_never

from jobs.errors import ManifestError
from jobs.manifest.columns import check_header
from jobs.manifest.delimited import BadQuotesError, read_quoted
from jobs.manifest.raw import Broken, Record, Records
from jobs.manifest.records import ManifestFile
from jobs.manifest.streams import MAX_LINE, Lines, read_chunks
from jobs.manifest.values import SURROGATE

_TOO_LONG = f"line is over {MAX_LINE:,} bytes; shorten it"
_NOT_UTF8 = "is not valid UTF-8; save the file as UTF-8"
_JSON_SPACE = " \t\r\n"
_LOOSE_COLONS = tuple(f"{space}:" for space in _JSON_SPACE)
_RISKY_ESCAPE = re.compile(r"\\u(?:0000|[dD])")


def read_records(manifest: ManifestFile, renames: Mapping[str, str]) -> Records:
    """The records of a manifest in order; raises ManifestError for a file that can't be read (on)."""
    if manifest.format == "parquet":
        from jobs.manifest.parquet import read_parquet  # noqa: PLC0415 - pyarrow takes long to import

        return read_parquet(manifest, renames)
    if manifest.format == "recipe":
        from jobs.manifest.recipe_rows import read_recipe  # noqa: PLC0415 - reads its prompts by this module

        assert manifest.recipe
        return read_recipe(manifest.recipe, renames)
    lines = Lines(read_chunks(manifest.path, manifest.compression, manifest.label), manifest.label)
    match manifest.format:
        case "jsonl":
            return read_jsonl(lines)
        case "txt":
            return read_text(lines, renames.get("prompt", "prompt"))
        case "csv":
            return read_delimited(lines, ",", manifest.label, renames)
        case "tsv":
            return read_delimited(lines, "\t", manifest.label, renames)
    assert_never(manifest.format)


def read_text(lines: Lines, column: str) -> Records:
    """One prompt a line; blank lines are no rows."""
    for raw in lines:
        text = _decoded(raw, lines.number)
        if isinstance(text, Broken):
            yield text
        elif text and not text.isspace():
            yield Record(lines.number, {column: text.removesuffix("\r")}, text, "\0" in text)


def read_jsonl(lines: Lines) -> Records:
    """One JSON object a line (RFC 8259, so no NaN); blank lines are no rows."""
    decode = _decoder()
    for raw in lines:
        text = _decoded(raw, lines.number)
        if isinstance(text, Broken):
            yield text
            continue
        if not text or text.isspace():
            continue
        try:
            values = decode(text)
        except (ValueError, RecursionError) as error:
            yield Broken(lines.number, _json_reason(error), text)
            continue
        if type(values) is dict:
            suspect = "\\u" in text and _RISKY_ESCAPE.search(text) is not None
            yield Record(lines.number, values, text, suspect)
        else:
            yield Broken(lines.number, 'is not a JSON object; write it as {"prompt": "…"}', text)


def read_delimited(lines: Lines, delimiter: str, label: str, renames: Mapping[str, str]) -> Records:
    """CSV or TSV under a header line; empty lines are no rows."""
    header = _read_header(lines, delimiter, label)
    check_header(header, renames, label)
    width = len(header)
    for raw in lines:
        if not raw or raw == b"\r":
            continue
        line = lines.number
        cells = _read_cells(lines, raw, delimiter, width)
        if isinstance(cells, Broken):
            yield cells
        elif len(cells) != width:
            reason = f"has {len(cells)} cells, the header has {width}; quote cells that hold the separator"
            yield Broken(line, reason, _loose(raw))
        else:
            yield Record(line, dict(zip(header, cells, strict=True)), raw, "\0" in "".join(cells))


def _read_header(lines: Lines, delimiter: str, label: str) -> Sequence[str]:
    for raw in lines:
        if raw.strip():
            break
    else:
        raise ManifestError(f"{label}: is empty; the first line has to be a header with a prompt column.")
    cells = _read_cells(lines, raw, delimiter, None)
    if isinstance(cells, Broken):
        raise ManifestError(f"{label}: line {cells.line}: the header {cells.reason}.")
    if any("\r" in cell for cell in cells):
        raise ManifestError(f"{label}: ends its lines with CR alone; save it with LF or CRLF.")
    return cells


def _read_cells(lines: Lines, raw: bytes, delimiter: str, width: int | None) -> Sequence[str] | Broken:
    line = lines.number
    if b'"' not in raw or len(raw) > MAX_LINE:
        text = _decoded(raw, line)
        return text if isinstance(text, Broken) else text.removesuffix("\r").split(delimiter)
    try:
        cells = read_quoted(lines, raw, delimiter, width)
    except BadQuotesError as error:
        return Broken(line, str(error), _loose(raw))
    if SURROGATE.search("".join(cells)):
        return Broken(line, _NOT_UTF8, _loose(raw))
    return cells


def _decoded(raw: bytes, line: int) -> str | Broken:
    if len(raw) > MAX_LINE:
        return Broken(line, _TOO_LONG, _loose(raw))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return Broken(line, f"byte {error.start + 1} {_NOT_UTF8}", _loose(raw))


def _loose(raw: bytes) -> str:
    return raw[:1000].decode("utf-8", "replace")


def _decoder() -> Callable[[str], Any]:
    """Decodes JSON without NaN and without keys that come twice; twice as fast where the text rules those out."""
    decode_plain = JSONDecoder(parse_constant=_refuse_constant).raw_decode
    decode_strictly = JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique).decode

    def decode(text: str) -> Any:
        try:
            values, end = decode_plain(text)
        except (ValueError, RecursionError):
            return decode_strictly(text)
        is_all = end == len(text) or not text[end:].strip(_JSON_SPACE)
        is_sure = is_all and type(values) is dict and _has_keys(text, len(values))
        return values if is_sure else decode_strictly(text)

    return decode


def _has_keys(text: str, count: int) -> bool:
    """Whether JSON text surely has no more than `count` keys at any depth: what follows each is a colon."""
    if text.count('":') != count:
        return False
    return text.count(":") == count or not any(gap in text for gap in _LOOSE_COLONS)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which JSON doesn't have; use null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
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
