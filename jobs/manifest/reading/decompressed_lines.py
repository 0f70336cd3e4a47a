"""Stream the bytes of a manifest: decompress them and split them into lines without loading the whole file."""

import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import zstandard

from jobs.errors import ManifestError
from jobs.manifest.reading.spool import exceeds
from jobs.manifest.types import Compression
from jobs.storage.safe_open import MANIFEST_LIMIT

MAX_LINE = 2**20
MAX_SKIPPED = 2**30
CHUNK = 2**18
# A zstd block of 4 bytes can decompress to 128 KiB, so this much input gives at most 8 MiB of output.
ZSTD_CHUNK = 2**8
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def read_chunks(
    path: Path, compression: Compression, label: str, limit: int = MANIFEST_LIMIT
) -> Iterator[bytes]:
    """Yield the decompressed bytes in chunks; ManifestError if the file is damaged, truncated or unreadable.

    Also raises ManifestError if a compressed file has more than `limit` bytes when unpacked.
    """
    left = limit
    try:
        with path.open("rb") as file:
            file.seek(0)  # on macOS, a file of /dev/fd shares the offset of its descriptor
            for chunk in _decompressed(file, compression):
                left -= len(chunk) if compression != "none" else 0
                if left < 0:
                    raise ManifestError(f"{label}: {exceeds(limit)}.")
                yield chunk
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        what = "can't be read" if compression == "none" else f"is damaged or truncated {compression} data"
        raise ManifestError(f"{label}: {what} ({error}); copy it again from its source.") from error


def _decompressed(file: BinaryIO, compression: Compression) -> Iterator[bytes]:
    if compression == "zstd":
        yield from _zstd_chunks(file)
        return
    with gzip.GzipFile(fileobj=file) if compression == "gzip" else file as plain:
        while chunk := plain.read(CHUNK):
            yield chunk


def _zstd_chunks(file: BinaryIO) -> Iterator[bytes]:
    # stream_reader() isn't used, as it doesn't report a truncated file.
    frame: zstandard.ZstdDecompressionObj | None = None
    while data := file.read(ZSTD_CHUNK):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            chunk = frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
            if chunk:
                yield chunk
    if frame is not None:
        raise EOFError("the last frame has no end")


def split_lines(chunks: Iterator[bytes], label: str) -> Iterator[bytes]:
    """Yield physical lines without their LF; lines over MAX_LINE bytes may be cut, but not to MAX_LINE or less.

    Raises ManifestError for a line over MAX_SKIPPED bytes, which no manifest has.
    """
    rest = b""
    skipped = 0
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        skipped = 0 if len(pieces) > 1 else skipped + len(chunk)
        if skipped > MAX_SKIPPED:
            raise ManifestError(
                f"{label}: has a line of over {MAX_SKIPPED:,} bytes, so that it is no manifest."
            )
        pieces[0] = rest + pieces[0]
        rest = pieces.pop()[: MAX_LINE + 1]
        yield from pieces
    if rest:
        yield rest


class Lines:
    """Iterator over physical lines; `number` is the number of the last one, from 1. Lines can be put back."""

    def __init__(self, chunks: Iterator[bytes], label: str) -> None:
        self.number = 0
        self._lines = split_lines(chunks, label)
        self._waiting: deque[bytes] = deque()
        first = next(self._lines, b"")
        if first[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            raise ManifestError(f"{label}: is UTF-16; save it as UTF-8.")
        self._waiting.append(first.removeprefix(b"\xef\xbb\xbf"))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self.number += 1
        return line

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Return the remaining lines with their numbers; several times as fast, but lines can't be put back."""
        return enumerate(chain(self._waiting, self._lines), self.number + 1)

    def put_back(self, lines: list[bytes]) -> None:
        """Put back the last lines that were read, in their original order."""
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)
