import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from jobs.errors import ManifestError
from jobs.manifest import Reject, Row, open_source, read_rows
from jobs.manifest.format_detection import sniff_format
from jobs.storage.safe_open import Writable
from tests.jobs.manifest.helpers import read, read_bytes, rules

ROWS = "".join(
    json.dumps({"prompt": f"fox {random.Random(n).random()}"}) + "\n" for n in range(20_000)
).encode()


@pytest.mark.parametrize(
    ("name", "stem", "format", "compression"),
    [
        ("a.jsonl", "a", "jsonl", "none"),
        ("a.b.NDJSON", "a.b", "jsonl", "none"),
        ("a.csv.gz", "a", "csv", "gzip"),
        ("a.tsv.zst", "a", "tsv", "zstd"),
        ("a.txt.GZ", "a", "txt", "gzip"),
        ("a.data", "a.data", "txt", "none"),
        ("plain", "plain", "txt", "none"),
    ],
)
def test_the_name_says_what_it_is(
    tmp_path: Path, name: str, stem: str, format: str, compression: str
) -> None:
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress}.get(compression, bytes)
    data = pack(b"a fox")
    (tmp_path / name).write_bytes(data)
    with open_source(str(tmp_path / name)) as manifest:
        assert (manifest.stem, manifest.format, manifest.compression) == (stem, format, compression)
        assert manifest.label == str(tmp_path / name)
        assert manifest.sha256 == hashlib.sha256(data).hexdigest()
        assert manifest.bytes == len(data)


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"PAR1\0", "parquet"),
        (b'\xef\xbb\xbf {"prompt":1}', "jsonl"),
        (b"id\tPrompt\r\n", "tsv"),
        (b'id,"Prompt"\n1,a', "csv"),
        (b"prompt\na, b", "tsv"),
        (b"a fox, in the snow\n", "txt"),
        (b"Caption,x\n", "txt"),
        (b"\xff\xfe", "txt"),
    ],
)
def test_the_first_bytes_say_what_it_is(head: bytes, format: str) -> None:
    assert sniff_format(head) == format
    assert sniff_format(b"Caption,x\n", "caption") == "csv"


def test_the_given_format_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"prompt,x\na,b")
    (row,) = read(path, format="csv")
    assert isinstance(row, Row)
    with pytest.raises(ManifestError, match="no manifest format 'xml'; choose jsonl, csv"):
        read(path, format="xml")


def test_compression_is_seen_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(b'{"prompt":"a fox"}'))
    with open_source(str(path)) as manifest:
        assert (manifest.format, manifest.compression) == ("jsonl", "gzip")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("part", [0.8, 0.99999])
def test_a_truncated_file_is_an_error_after_its_rows(tmp_path: Path, compress: object, part: float) -> None:
    data = compress(ROWS)  # type: ignore[operator]
    path = tmp_path / f"m.jsonl.{'gz' if compress is gzip.compress else 'zst'}"
    path.write_bytes(data[: int(len(data) * part)])
    rows: list[Row | Reject] = []
    with (
        open_source(str(path)) as manifest,
        pytest.raises(ManifestError, match=f"{path.name}: is damaged or"),
    ):
        rows.extend(read_rows(manifest, rules()))
    assert all(isinstance(row, Row) for row in rows)
    assert 10_000 < len(rows) < 20_001


def test_a_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(ROWS))
    data[-6] ^= 1
    with pytest.raises(ManifestError, match="damaged"):
        read_bytes(tmp_path, "m.jsonl.gz", bytes(data))


@pytest.mark.parametrize("name", ["m.jsonl.gz", "m.jsonl.zst"])
def test_several_compressed_parts_in_one_file(tmp_path: Path, name: str) -> None:
    compress = gzip.compress if name.endswith("gz") else zstandard.compress
    half = len(ROWS) // 2
    assert len(read_bytes(tmp_path, name, compress(ROWS[:half]) + compress(ROWS[half:]))) == 20_000


@pytest.mark.parametrize("name", ["m.jsonl.gz", "m.jsonl.zst"])
def test_a_name_that_promises_compression(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="is named as"):
        read_bytes(tmp_path, name, b'{"prompt":"a"}')
    with pytest.raises(ManifestError, match="is empty"):
        read_bytes(tmp_path, name, b"")


def test_what_cant_be_opened(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a")
    for location, words in {
        str(tmp_path / "promts.txt"): r"no such file. Did you mean .*prompts\.txt\?",
        str(tmp_path / "nowhere" / "a.txt"): "There is no folder",
        str(tmp_path): "is a folder",
        "a\0b": "can't be opened",
        "x" * 5000: "can't be opened",
        "https://host/a.csv": "only paths, '-' and s3://",
        "s3://bucket/a.csv": "no object store is configured",
    }.items():
        with pytest.raises(ManifestError, match=words), open_source(location):
            pass


def test_s3_is_fetched_and_forgotten(tmp_path: Path) -> None:
    asked = []

    def fetch(uri: str, file: Writable) -> None:
        asked.append(uri)
        file.write(b"prompt\na fox")

    with open_source("s3://bucket/dir/my.csv", fetch=fetch) as manifest:
        assert (manifest.label, manifest.stem, manifest.format) == ("s3://bucket/dir/my.csv", "my", "csv")
        assert len(list(read_rows(manifest, rules()))) == 1
    assert asked == ["s3://bucket/dir/my.csv"]
    assert not manifest.path.exists()


def test_a_pipe_is_spooled(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, gzip.compress(b"a fox\nan owl"))
    os.close(writing)
    with open_source(f"/dev/fd/{reading}") as manifest:
        assert len(list(read_rows(manifest, rules()))) == 2
    os.close(reading)


def test_stdin_is_read_in_a_stream() -> None:
    script = (
        "from jobs.manifest import open_source\n"
        "with open_source('-') as m: print(m.label, m.stem, m.format, m.bytes, m.path.exists())"
    )
    done = subprocess.run([sys.executable, "-c", script], input=ROWS, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["stdin", "stdin", "jsonl", str(len(ROWS)), "True"]


def test_a_zstd_bomb_is_unpacked_in_small_pieces(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.zst"
    packed = io.BytesIO()
    with zstandard.ZstdCompressor(level=19).stream_writer(packed, closefd=False) as writer:
        for _ in range(200):
            writer.write(b" " * 2**20)
        writer.write(b'\n{"prompt":"a"}')
    path.write_bytes(packed.getvalue())
    tracemalloc.start()
    first, second = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(first, Reject)
    assert isinstance(second, Row)
    assert peak < 40_000_000
