"""What `nightmill feed` writes: JSON lines, an Arrow stream or a Parquet file, to standard output or a file."""

import io
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from sqlalchemy import Engine

from console.terminal.lenient_standard_streams import Output, was_read
from console.terminal.output import print_line
from console.terminal.write_file_atomically import complete_file
from jobs.errors import UsageError
from jobs.feed.feed import Cursor, pages
from jobs.feed.feed_query import FeedQuery

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("jsonl", "arrow", "parquet")


class FeedOutput(ABC):
    """Reads pages of the feed and writes them; `file` None: to standard output."""

    def __init__(self, query: FeedQuery, file: BinaryIO | None) -> None:
        self.query, self.file = query, file

    @abstractmethod
    def copy(self, engine: Engine, since: Cursor, limit: int | None) -> Iterator[tuple[int, Cursor]]:
        """Write page after page; yields, after each, how many lines it had and the cursor after it."""

    def was_taken(self) -> bool:
        """Whether what was written has arrived: in a pipe, when its reader has taken it."""
        return self.file is not None or was_read()

    @abstractmethod
    def close(self) -> None:
        """Write what belongs at the end."""


class JsonLines(FeedOutput):
    """A JSON object a line."""

    def copy(self, engine: Engine, since: Cursor, limit: int | None) -> Iterator[tuple[int, Cursor]]:
        """Write pages; on a terminal, control characters are made visible."""
        for page in pages(engine, since, self.query, limit=limit):
            if self.file is not None:
                self.file.writelines(f"{line}\n".encode() for line in page.lines)
            elif sys.stdout.isatty():
                for line in page.lines:
                    print_line(line)
            elif page.lines:
                sys.stdout.write("\n".join(page.lines) + "\n")
                sys.stdout.flush()
            yield len(page.lines), page.cursor

    def close(self) -> None:
        """Do nothing: lines have no end."""


class ArrowStream(FeedOutput):
    """An Arrow IPC stream."""

    def __init__(self, query: FeedQuery, file: BinaryIO | None) -> None:
        import pyarrow as pa  # noqa: PLC0415 - takes time to import

        from scheduler.read_feed_as_arrow_tables import feed_schema  # noqa: PLC0415

        super().__init__(query, file)
        if file is None and sys.stdout.isatty():
            raise UsageError("Arrow is binary: send it into a pipe or a file, or say --out FILE")
        self._writer = pa.ipc.new_stream(_StandardOutput() if file is None else file, feed_schema(query))

    def copy(self, engine: Engine, since: Cursor, limit: int | None) -> Iterator[tuple[int, Cursor]]:
        """Write pages as record batches."""
        for table, cursor in _tables(engine, since, self.query, limit):
            self._writer.write_table(table)
            if self.file is None:
                sys.stdout.flush()
            yield table.num_rows, cursor

    def close(self) -> None:
        """Write the end of the stream."""
        self._writer.close()
        if self.file is None:
            sys.stdout.flush()


class ParquetFile(FeedOutput):
    """A Parquet file, in row groups of a page each."""

    def __init__(self, query: FeedQuery, file: BinaryIO | None) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415

        from scheduler.read_feed_as_arrow_tables import feed_schema  # noqa: PLC0415

        super().__init__(query, file)
        if file is None:
            raise UsageError(
                "--format parquet needs --out FILE: a Parquet file can't be read before it is complete"
            )
        self._writer = pq.ParquetWriter(file, feed_schema(query), compression="zstd")

    def copy(self, engine: Engine, since: Cursor, limit: int | None) -> Iterator[tuple[int, Cursor]]:
        """Write pages as row groups."""
        for table, cursor in _tables(engine, since, self.query, limit):
            if table.num_rows:
                self._writer.write_table(table)
            yield table.num_rows, cursor

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


_OUTPUTS: dict[str, type[FeedOutput]] = {"jsonl": JsonLines, "arrow": ArrowStream, "parquet": ParquetFile}


@contextmanager
def feed_output(format: str, query: FeedQuery, out: Path | None) -> Iterator[FeedOutput]:
    """Open the output; a file takes its name only when it is complete and on the disk."""
    if out is None:
        output = _OUTPUTS[format](query, None)
        yield output
        output.close()
        return
    with complete_file(out) as file:
        output = _OUTPUTS[format](query, file)
        yield output
        output.close()


def _tables(
    engine: Engine, since: Cursor, query: FeedQuery, limit: int | None
) -> "Iterator[tuple[pa.Table, Cursor]]":
    from scheduler.read_feed_as_arrow_tables import read_feed  # noqa: PLC0415

    return read_feed(engine, since, query, limit=limit)


class _StandardOutput(io.RawIOBase):
    """Standard output for bytes: a reader that has closed the pipe is noticed as it is for text."""

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        body = bytes(cast(bytes, data))
        if isinstance(sys.stdout, Output):
            sys.stdout.write_bytes(body)
        else:
            sys.stdout.buffer.write(body)
        return len(body)
