"""Open the manifest that the user named, from a path, standard input or S3, and describe it as a ManifestFile."""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from hashlib import file_digest
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, get_args

from jobs.errors import ManifestError, UsageError
from jobs.manifest.format_detection import find_format, read_head, sniff_compression
from jobs.manifest.reading.decompressed_lines import CHUNK
from jobs.manifest.reading.spool import spooled
from jobs.manifest.types import OUTSIDE, Compression, Format, ManifestFile
from jobs.manifest.values import printable
from jobs.storage.safe_open import (
    MANIFEST_LIMIT,
    NotRegularError,
    Writable,
    is_below,
    open_regular,
    opened_path,
)
from jobs.suggest_names_and_shorten_lists import nearest

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "txt",
    ".yaml": "recipe",
    ".yml": "recipe",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}

Fetch = Callable[[str, Writable], None]

_OWN_PIPE = re.compile(r"/(?:dev|proc/self)/fd/[0-9]+")
_MAX_NEIGHBOURS = 10_000


@dataclass(frozen=True)
class Access:
    """Access options of a manifest: `fetch(uri, file)` reads from S3; `limit` bounds the bytes spooled or unpacked.

    Files named by a recipe must be in its folder or below one of `roots`. `prompt_header` is the header of the prompts.
    """

    fetch: Fetch | None = None
    prompt_header: str = "prompt"
    limit: int = MANIFEST_LIMIT
    roots: Sequence[str] = ()


@contextmanager
def open_source(
    location: str,
    *,
    format: str | None = None,
    delimiter: str | None = None,
    fetch: Fetch | None = None,
    prompt_header: str = "prompt",
    limit: int = MANIFEST_LIMIT,
    roots: Sequence[str] = (),
) -> Iterator[ManifestFile]:
    """Provide a manifest as a local file for the duration of the block.

    `location` is a path, `-` (stdin) or an `s3://` URI. Standard input and objects are spooled to an unnamed temporary
    file. The format is `format`, else that of the suffix, checked against the first bytes, else it is detected from the
    first bytes; `delimiter` is that of a table. For the other parameters see `Access`. Raises ManifestError, and
    UsageError for a delimiter of a file that is no table.
    """
    access = Access(fetch, prompt_header, limit, roots)

    def open_file(
        location: str, format: str | None, within: Sequence[str]
    ) -> AbstractContextManager[ManifestFile]:
        return _open_file(location, format, access, within)

    with _open_file(location, format, access) as manifest:
        if manifest.format != "recipe":
            yield _with_delimiter(manifest, delimiter)
            return
        from jobs.manifest.recipe.open_recipe_files import with_recipe  # noqa: PLC0415 - YAML is for recipes only

        with with_recipe(manifest, open_file, prompt_header, roots) as recipe:
            yield recipe


@contextmanager
def _open_file(
    location: str, format: str | None, access: Access, within: Sequence[str] = ()
) -> Iterator[ManifestFile]:
    label = "stdin" if location == "-" else printable(location, 1000)
    with _local_file(location, label, access, within) as path:
        yield _describe(location, label, path, format, access)


def _local_file(
    location: str, label: str, access: Access, within: Sequence[str]
) -> AbstractContextManager[Path]:
    if location == "-":
        return spooled(_stdin, label, access.limit)
    if "://" in location:
        return _fetched(location, label, access)
    if _is_own_pipe(location):
        return spooled(lambda spool: _copy_path(location, spool), label, access.limit)
    return _existing(location, label, within)


def _stdin(spool: Writable) -> None:
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no file at all
        mode = 0
    if sys.stdin is None or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ManifestError("-: nothing is piped in; write it as: cat prompts.txt | nightmill run -")
    _copy(sys.stdin.buffer, spool)


def _fetched(location: str, label: str, access: Access) -> AbstractContextManager[Path]:
    if not location.startswith("s3://"):
        raise ManifestError(f"{label}: only paths, '-' and s3:// are read; download it or pipe it in.")
    fetch = access.fetch
    if fetch is None:
        raise ManifestError(f"{label}: no object store is configured to read it from.")
    return spooled(lambda spool: fetch(location, spool), label, access.limit)


def _is_own_pipe(location: str) -> bool:
    """Whether the path is a shell's process substitution, <(command)."""
    try:
        return bool(_OWN_PIPE.fullmatch(location)) and stat.S_ISFIFO(Path(location).stat().st_mode)
    except OSError:
        return False


@contextmanager
def _existing(location: str, label: str, within: Sequence[str]) -> Iterator[Path]:
    try:
        descriptor = open_regular(location)
    except NotRegularError as error:
        raise ManifestError(f"{label}: {error.strerror}; {_instead(error.strerror)}.") from None
    except FileNotFoundError:
        raise ManifestError(f"{label}: {_absent(Path(location))}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{label}: can't be opened ({reason}).") from error
    try:
        if within and not is_below(opened_path(descriptor), within):
            raise ManifestError(f"{label}: {OUTSIDE}.")
        yield Path(f"/dev/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _instead(kind: str | None) -> str:
    return "name a file in it" if kind == "is a folder" else "name a file, or pipe it in and write '-'"


def _absent(path: Path) -> str:
    if path.is_symlink():
        return f"is a link to {printable(str(path.readlink()), 1000)}, and there is nothing."
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), _MAX_NEIGHBOURS)]
    except OSError:
        return f"no such file. There is no folder {printable(str(path.parent), 1000)} either."
    near = nearest(path.name, names)
    return f"no such file.{f' Did you mean {printable(str(path.with_name(near)), 1000)}?' if near else ''}"


def _copy_path(location: str, spool: Writable) -> None:
    with Path(location).open("rb") as stream:
        _copy(stream, spool)


def _copy(stream: BinaryIO, spool: Writable) -> None:
    while chunk := stream.read(CHUNK):
        spool.write(chunk)


def _describe(location: str, label: str, path: Path, format: str | None, access: Access) -> ManifestFile:
    stem, named_format, named_compression = _from_name(location)
    try:
        with path.open("rb") as file:
            file.seek(0)
            digest = file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise ManifestError(f"{label}: can't be read ({error.strerror}).") from error
    if size == 0:
        raise ManifestError(f"{label}: is empty.")
    compression = sniff_compression(path, label, named_compression)
    told = _known_format(format)
    head = read_head(path, compression, label)
    found = find_format(
        head,
        label,
        told=told,
        named=named_format,
        suffix=PurePosixPath(stem).suffix.removeprefix("."),
        prompt_header=access.prompt_header,
    )
    folder = _folder(location)
    return ManifestFile(label, stem, path, found, compression, digest, size, folder, limit=access.limit)


def _with_delimiter(manifest: ManifestFile, delimiter: str | None) -> ManifestFile:
    """Set the delimiter of a table; UsageError for other formats."""
    if delimiter is None:
        return manifest
    mark = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if len(mark) != 1 or mark.isalnum() or mark in '"\r\n\0':
        raise UsageError(f"--delimiter {delimiter!r}: give one character, such as ';', or the word tab.")
    if manifest.format not in {"csv", "tsv"}:
        raise UsageError(f"--delimiter: {manifest.label} is {manifest.format}; add --input-format csv.")
    return replace(manifest, delimiter=mark)


def _folder(location: str) -> str:
    if location.startswith("s3://"):
        return location.rpartition("/")[0]
    return str(Path.cwd() if location == "-" else Path(location).absolute().parent)


def _from_name(location: str) -> tuple[str, Format | None, Compression]:
    if location == "-":
        return "stdin", None, "none"
    name = PurePosixPath(location).name
    inner, dot, last = name.rpartition(".")
    compression = _COMPRESSIONS.get(dot + last.lower(), "none")
    if compression != "none":
        name = inner
        inner, dot, last = name.rpartition(".")
    format = _FORMATS.get(dot + last.lower())
    return (inner if format else name) or "manifest", format, compression


def _known_format(format: str | None) -> Format | None:
    for known in get_args(Format):
        if format == known:
            return known  # type: ignore[no-any-return]
    if format is not None:
        raise ManifestError(f"there is no manifest format {format!r}; choose {', '.join(get_args(Format))}.")
    return None
