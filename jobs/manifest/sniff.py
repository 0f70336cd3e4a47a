"""What a file is, by its first bytes."""

from pathlib import Path

from jobs.errors import ManifestError
from jobs.manifest.records import Compression, Format
from jobs.manifest.streams import GZIP_MAGIC, ZSTD_MAGIC, read_chunks

PARQUET_MAGIC = b"PAR1"
HEAD = 2**16


def sniff_compression(path: Path, label: str, named: Compression) -> Compression:
    """How the file is compressed; ManifestError when its name promises a compression that it doesn't have."""
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
    """The first decompressed bytes, HEAD of them or a little more."""
    head = b""
    for chunk in read_chunks(path, compression, label):
        head += chunk
        if len(head) >= HEAD:
            break
    return head


def sniff_format(head: bytes, prompt_header: str = "prompt") -> Format:
    """The likeliest format: Parquet's magic, `{`, a header line with a prompt column, else lines of text."""
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").lstrip()
    if text.startswith("{"):
        return "jsonl"
    line = text.partition("\n")[0].rstrip("\r")
    if _has(prompt_header, line, "\t"):
        # A lone `prompt` too: with tabs as separators the commas in prompts do no harm.
        return "tsv"
    return "csv" if _has(prompt_header, line, ",") else "txt"


def _has(header: str, line: str, delimiter: str) -> bool:
    return header.strip().lower() in {cell.strip(' "').lower() for cell in line.split(delimiter)}
