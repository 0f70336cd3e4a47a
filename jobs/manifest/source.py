"""Finds the manifest that the user named and says what kind of file it is."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import BinaryIO, get_args

from jobs.errors import ManifestError
from jobs.manifest.records import Compression, Format, ManifestFile
from jobs.manifest.sniff import read_head, sniff_compression, sniff_format
from jobs.manifest.streams import CHUNK
from jobs.manifest.values import printable

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "txt",
    ".yaml": "recipe",
    ".yml": "recipe",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}

Fetch = Callable[[str, Path], None]


@contextmanager
def open_source(
    location: str, *, format: str | None = None, fetch: Fetch | None = None, prompt_header: str = "prompt"
) -> Iterator[ManifestFile]:
    """Make a manifest a local file for as long as the block runs.

    `location` is a path, `-` (stdin) or an `s3://` URI, which `fetch(uri, path)` downloads; what isn't a
    regular file is spooled to a temporary one. The format comes from `format`, else from the suffix, else
    from the first bytes, where `prompt_header` is the header to look for. Raises ManifestError.
    """

    def open_file(location: str, format: str | None) -> AbstractContextManager[ManifestFile]:
        return _open_file(location, format, fetch, prompt_header)

    with open_file(location, format) as manifest:
        if manifest.format != "recipe":
            yield manifest
            return
        from jobs.manifest.recipe_files import with_recipe  # noqa: PLC0415 - YAML is for recipes only

        with with_recipe(manifest, open_file, prompt_header) as recipe:
            yield recipe


@contextmanager
def _open_file(
    location: str, format: str | None, fetch: Fetch | None, prompt_header: str
) -> Iterator[ManifestFile]:
    with tempfile.TemporaryDirectory(prefix="nightmill-manifest-") as folder:
        path = _local_file(location, Path(folder) / "manifest", fetch)
        yield _describe(location, path, format, prompt_header)


def _local_file(location: str, spool: Path, fetch: Fetch | None) -> Path:
    if location == "-":
        if sys.stdin.isatty():
            raise ManifestError("-: nothing is piped in; write it as: cat prompts.txt | nightmill run -")
        return _spool(sys.stdin.buffer, spool)
    if "://" in location:
        return _fetched(location, spool, fetch)
    return _existing(Path(location), location, spool)


def _fetched(location: str, spool: Path, fetch: Fetch | None) -> Path:
    if not location.startswith("s3://"):
        raise ManifestError(f"{location}: only paths, '-' and s3:// are read; download it or pipe it in.")
    if fetch is None:
        raise ManifestError(f"{location}: no object store is configured to read it from.")
    fetch(location, spool)
    return spool


def _existing(path: Path, label: str, spool: Path) -> Path:
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise ManifestError(f"{label}: is a folder; name a file in it.")
        with path.open("rb") as pipe:
            return _spool(pipe, spool)
    except FileNotFoundError:
        raise ManifestError(f"{label}: no such file.{_neighbour(path)}") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{label}: can't be opened ({error}).") from error


def _neighbour(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f" There is no folder {path.parent} either."
    near = get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.with_name(near[0])}?" if near else ""


def _spool(stream: BinaryIO, spool: Path) -> Path:
    with spool.open("wb") as file:
        copyfileobj(stream, file, CHUNK)
    return spool


def _describe(location: str, path: Path, format: str | None, prompt_header: str) -> ManifestFile:
    label = "stdin" if location == "-" else printable(location, 1000)
    stem, named_format, named_compression = _from_name(location)
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise ManifestError(f"{label}: can't be read ({error.strerror}).") from error
    if size == 0:
        raise ManifestError(f"{label}: is empty.")
    compression = sniff_compression(path, label, named_compression)
    found = _known_format(format) or named_format
    if found is None:
        found = sniff_format(read_head(path, compression, label), prompt_header)
    return ManifestFile(label, stem, path, found, compression, digest, size, _folder(location))


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
