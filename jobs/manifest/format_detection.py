"""Detect a manifest's format and compression from its name and first bytes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.errors import ManifestError
from jobs.manifest.formats.csv_parser import DELIMITERS, find_delimiter
from jobs.manifest.reading.decompressed_lines import GZIP_MAGIC, ZSTD_MAGIC, read_chunks
from jobs.manifest.reading.refuse_foreign_file_types import PARQUET_MAGIC, refuse_foreign
from jobs.manifest.reading.texts_without_prompts import refuse_other_texts
from jobs.manifest.types import Compression, Format
from jobs.manifest.values import printable

HEAD = 2**16
_FEW = 3
_MANY = 0.1
_ARRAY = re.compile(r'\[\s*(?:\{\s*["}]|"(?:[^"\\]|\\.)*"\s*[,\]]|\[\s*["\[\d]|\]\s*\Z)')
_OBJECT = re.compile(r'\{\s*["}]')
_KINDS: dict[str, str] = {
    "parquet": "a Parquet file",
    "json": "a JSON document",
    "jsonl": "JSON Lines",
    "csv": "a table whose cells commas part",
    "tsv": "a table whose cells tabs part",
}


def sniff_compression(path: Path, label: str, named: Compression) -> Compression:
    """Detect the file's compression; ManifestError if its name says it is compressed and it isn't."""
    with path.open("rb") as file:
        file.seek(0)
        magic = file.read(4)
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    if magic == ZSTD_MAGIC:
        return "zstd"
    if named != "none":
        raise ManifestError(f"{label}: is named as {named} data and isn't; rename it or compress it again.")
    return "none"


def read_head(path: Path, compression: Compression, label: str) -> bytes:
    """Return the first decompressed bytes, about HEAD of them."""
    head = b""
    for chunk in read_chunks(path, compression, label):
        head += chunk
        if len(head) >= HEAD:
            break
    return head


def find_format(
    head: bytes,
    label: str,
    *,
    told: Format | None,
    named: Format | None,
    suffix: str = "",
    prompt_header: str = "prompt",
) -> Format:
    """Determine the format: the user's choice `told`, or the one of the file name if the first bytes don't contradict.

    Raises ManifestError for unsupported kinds of files, for files that don't match their suffix, and for files without
    a known suffix that could be a table or lines of text.
    """
    if not head.startswith(PARQUET_MAGIC):
        refuse_foreign(head, label)
        _check_encoding(head, label)
    if told is not None:
        return told
    if named == "recipe":
        return named
    seems = sniff_format(head, prompt_header)
    if seems in {"txt", "csv", "tsv"}:
        is_sure = named is not None or seems != "txt"
        refuse_other_texts(_first_lines(head), label, suffix, is_named=is_sure)
    if named is None:
        return seems if seems != "txt" else _text_surely(head, label)
    if named == "json":
        return _json_kind(seems, label)
    _check_named(named, seems, head, label)
    return named


def _check_encoding(head: bytes, label: str) -> None:
    """Raise ManifestError if many lines aren't ASCII and none of them is UTF-8: the file has another encoding.

    A few such lines are treated as damage and rejected one by one.
    """
    lines = head.splitlines()
    lines = lines[:-1] if len(head) >= HEAD else lines
    others = [line for line in lines if not line.isascii()]
    if len(others) < max(_FEW, len(lines) * _MANY) or b"\0" in head or any(map(_is_utf8, others)):
        return
    raise ManifestError(
        f"{label}: is not in UTF-8: of its first {len(lines):,} lines, all {len(others):,} that have more than ASCII "
        "are in another encoding, such as Windows-1252, Latin-1 or Shift-JIS; save it as UTF-8, "
        "as `iconv -f WINDOWS-1252 -t UTF-8` does."
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def sniff_format(head: bytes, prompt_header: str = "prompt") -> Format:
    """Guess the format from the content: Parquet's magic, JSON, a header with a prompt column, else lines of text."""
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").lstrip()
    lines = _lines(text)
    if _ARRAY.match(text):
        return "json"
    if _OBJECT.match(text):
        return _object_kind(lines)
    delimiter = find_delimiter(lines[0], {prompt_header})
    # Also for a header of only `prompt`: with tabs as separators, commas in prompts do no harm.
    return "txt" if delimiter is None else ("tsv" if delimiter == "\t" else "csv")


def _object_kind(lines: Sequence[str]) -> Format:
    """Distinguish JSON Lines from one document that begins with an object."""
    later = next((line for line in lines[1:] if line.strip()), None)
    first = _parsed(lines[0])
    if later is None:
        has_parts = isinstance(first, dict) and any(isinstance(part, list | dict) for part in first.values())
        return "json" if has_parts else "jsonl"
    return "json" if first is None and later.lstrip()[:1] in {'"', "}"} else "jsonl"


def _lines(text: str) -> list[str]:
    """Split at CR, LF and CRLF only; `splitlines` splits at further characters."""
    return re.split(r"\r\n|\n|\r", text)


def _first_lines(head: bytes) -> list[str]:
    return _lines(head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))[:20]


def _parsed(line: str) -> dict[str, Any] | list[Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _json_kind(seems: Format, label: str) -> Format:
    if seems in {"json", "jsonl"}:
        return seems
    if seems == "txt":
        return "json"
    raise ManifestError(f"{label}: is {_KINDS[seems]}, not JSON; rename it or give --input-format {seems}.")


def _check_named(named: Format, seems: Format, head: bytes, label: str) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").lstrip()
    lines = [line for line in _lines(text) if line.strip()]
    if named == "jsonl":
        _check_json_lines(seems, text, lines, label)
    if named == "txt":
        is_denied = seems == "parquet" or _is_json_surely(seems, lines) or _is_table_surely(seems, lines)
    else:
        is_denied = seems == "parquet" or (named in {"csv", "tsv"} and seems in {"json", "jsonl"})
    if is_denied and named != seems:
        as_named = f", or --input-format {named} to read it as that all the same" if named == "txt" else ""
        raise ManifestError(
            f"{label}: is {_KINDS[seems]}, not {_named(named)}; rename it or give --input-format {seems}{as_named}."
        )


def _check_json_lines(seems: Format, text: str, lines: Sequence[str], label: str) -> None:
    """Raise ManifestError for an array or an object over several lines, which would give a reject per line."""
    if seems == "json" and (len(lines) > 1 or text.startswith("[")):
        raise ManifestError(
            f"{label}: is {_json_shape(text)}, not lines of JSON objects; name it .json or give --input-format json."
        )


def _is_json_surely(seems: Format, lines: Sequence[str]) -> bool:
    return seems in {"json", "jsonl"} and (_parsed(lines[0]) is not None or lines[0].strip() in {"[", "{"})


def _is_table_surely(seems: Format, lines: Sequence[str]) -> bool:
    """Whether all lines have the same number of cells; prompts may contain commas and the word "prompt", too."""
    mark = find_delimiter(lines[0], {"prompt"}) if seems in {"csv", "tsv"} else None
    if mark is None or mark not in lines[0]:
        return False
    return len(lines) > 1 and len({line.count(mark) for line in lines[:20]}) == 1


def _json_shape(text: str) -> str:
    return "a JSON array" if text.startswith("[") else "a JSON document of several lines"


def _named(named: Format) -> str:
    return {"txt": "lines of text", "jsonl": "JSON Lines"}.get(named, f"a .{named} table")


def _text_surely(head: bytes, label: str) -> Format:
    """Return "txt"; ManifestError if the lines might be a table or are not UTF-8 text."""
    lines = [line for line in _first_lines(head) if line.strip()]
    if b"\0" in head or sum(line.count("\ufffd") for line in lines) > len(lines):
        raise ManifestError(f"{label}: is no text in UTF-8; say with --input-format what it is.")
    mark = next((mark for mark in DELIMITERS if _is_table(lines, mark)), None)
    if mark is None:
        return "txt"
    raise ManifestError(
        f"{label}: might be a table without a 'prompt' column (its first line is '{printable(lines[0], 60)}') or lines "
        "of text; say so with --input-format csv, tsv or txt, and --map prompt=Column for a table."
    )


def _is_table(lines: Sequence[str], mark: str) -> bool:
    """Whether all lines have the same number of cells and the cells of the first look like column names."""
    if len(lines) < 2 or mark not in lines[0]:
        return False
    names = [cell.strip(' "') for cell in lines[0].split(mark)]
    if mark == "," and not all(re.fullmatch(r"[\w.-]{1,30}", name) for name in names):
        return False
    return len({line.count(mark) for line in lines}) == 1 and all(len(name) <= 40 for name in names)
