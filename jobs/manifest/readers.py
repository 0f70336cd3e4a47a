"""Every format as one stream: a record of values by column name, or a broken record with its reason."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from jobs.errors import ManifestError
from jobs.manifest.columns import check_header
from jobs.manifest.decoding import NOT_UTF8, decoded, loose
from jobs.manifest.delimited import BadQuotesError, read_quoted
from jobs.manifest.json_lines import read_jsonl
from jobs.manifest.raw import Broken, Record, Records
from jobs.manifest.records import ManifestFile
from jobs.manifest.streams import MAX_LINE, Lines, read_chunks
from jobs.manifest.values import SURROGATE


def read_records(manifest: ManifestFile, renames: Mapping[str, str]) -> Records:
    """The records of a manifest in order; raises ManifestError for a file that can't be read (on)."""
    if manifest.format == "parquet":
        from jobs.manifest.parquet import read_parquet  # noqa: PLC0415 - pyarrow takes long to import

        return read_parquet(manifest, renames)
    if manifest.format == "recipe":
        from jobs.manifest.recipe_rows import read_recipe  # noqa: PLC0415 - reads its prompts by this module

        assert manifest.recipe
        return read_recipe(manifest.recipe, renames)
    lines = Lines(
        read_chunks(manifest.path, manifest.compression, manifest.label, manifest.limit), manifest.label
    )
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
        text = decoded(raw, lines.number)
        if isinstance(text, Broken):
            yield text
        elif text and not text.isspace():
            yield Record(lines.number, {column: text.removesuffix("\r")}, text, "\0" in text)


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
            yield Broken(line, reason, loose(raw))
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
        text = decoded(raw, line)
        return text if isinstance(text, Broken) else text.removesuffix("\r").split(delimiter)
    try:
        cells = read_quoted(lines, raw, delimiter, width)
    except BadQuotesError as error:
        return Broken(line, str(error), loose(raw))
    if SURROGATE.search("".join(cells)):
        return Broken(line, NOT_UTF8, loose(raw))
    return cells
