"""What a manifest may cost: no waiting for pipes and devices, nothing unpacked or kept beyond a limit."""

import gzip
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from jobs.errors import ManifestError
from jobs.manifest import open_source, read_rows
from jobs.manifest.reading import decompressed_lines
from jobs.manifest.reading.spool import spooled
from tests.jobs.manifest.helpers import read, rules


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A folder with a pipe, a socket, a folder, and links to them and to a device without an end."""
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.txt"))
        for name in ("pipe", "folder", "socket"):
            (tmp_path / f"to-{name}.txt").symlink_to(f"{name}.txt")
        (tmp_path / "device.txt").symlink_to("/dev/zero")
        (tmp_path / "loop.txt").symlink_to("loop.txt")
        (tmp_path / "gone.txt").symlink_to("gon.txt")
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pipe.txt", "is a pipe; name a file, or pipe it in and write '-'"),
        ("to-pipe.txt", "is a pipe"),
        ("socket.txt", "is a socket"),
        ("to-socket.txt", "is a socket"),
        ("folder.txt", "is a folder; name a file in it"),
        ("to-folder.txt", "is a folder"),
        ("device.txt", "is a device"),
        ("loop.txt", "can't be opened (Too many levels of symbolic links)"),
        ("gone.txt", "is a link to gon.txt, and there is nothing"),
    ],
)
def test_only_regular_files_are_read(odd: Path, name: str, words: str) -> None:
    for opened in (odd / name, _recipe(odd, f"prompts: {{file: {name}}}"), _word_file(odd, name)):
        with pytest.raises(ManifestError) as caught, open_source(str(opened)):
            pass
        assert words in str(caught.value)


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def _word_file(folder: Path, name: str) -> Path:
    path = folder / "w.yaml"
    path.write_text(f"prompts: {{template: '{{x}}'}}\nvariables: {{x: {{file: {name}}}}}\n")
    return path


def test_standard_input_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open() as zero, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", zero)
        with pytest.raises(ManifestError, match="nothing is piped in"), open_source("-"):
            pass
    with pytest.raises(ManifestError, match="is a device"), open_source("/dev/zero"):
        pass


def _packed(name: str, data: bytes) -> bytes:
    return gzip.compress(data) if name.endswith(".gz") else zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.csv.gz", "a.parquet.gz", "a.yaml.zst"])
def test_no_more_is_unpacked_than_the_limit(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(_packed(name, b"prompt\n" + b"a fox\n" * 20_000))
    with pytest.raises(ManifestError) as caught, open_source(str(path), limit=2**16) as manifest:
        list(read_rows(manifest, rules()))
    assert "has over 64 KiB when unpacked; split it, or raise NIGHTMILL_MANIFEST_LIMIT" in str(
        caught.value
    ) or name.startswith("a.yaml")


def test_a_spool_takes_no_more_than_half_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        f_bavail, f_frsize = 64, 4096

    monkeypatch.setattr("os.fstatvfs", lambda _: Disk)
    words = r"is over 128 KiB, half of what is free in .*; set TMPDIR"
    filled = spooled(lambda file: [file.write(bytes(2**16)) for _ in range(3)], "x", 2**40)
    with pytest.raises(ManifestError, match=words), filled:
        pass
    with spooled(lambda file: file.write(bytes(2**16)), "x", 2**40) as path:
        assert path.stat().st_size == 2**16


def test_nothing_is_left_of_a_process_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from jobs.manifest import open_source\n"
        "with open_source('-', format='jsonl') as manifest:\n"
        "    print(manifest.bytes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"{}\n" * 1000)
        child.stdin.close()
        assert child.stdout.readline() == b"3000\n"
        child.send_signal(signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_a_line_without_an_end_is_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompressed_lines, "MAX_SKIPPED", 4 << 20)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20), 1))
    with pytest.raises(ManifestError, match=r"has a line of over 4,194,304 bytes, so that it is no manifest"):
        read(path)


def test_a_recipe_reads_what_lies_beside_it_or_below_the_roots(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "sub").mkdir(parents=True)
    other.mkdir()
    for file in (home / "sub" / "p.txt", other / "p.txt"):
        file.write_text("a fox\n")
    (home / "in.txt").symlink_to("sub/p.txt")
    (home / "out.txt").symlink_to(other / "p.txt")
    (home / "outside").symlink_to(other)
    for name in ("sub/p.txt", "in.txt", str(home / "sub" / "p.txt"), "../home/in.txt"):
        assert len(read(_recipe(home, f"prompts: {{file: {name}}}"))) == 1
    for name in ("../other/p.txt", "out.txt", "outside/p.txt", str(other / "p.txt"), "/etc/passwd"):
        for recipe in (_recipe(home, f"prompts: {{file: {name}}}"), _word_file(home, name)):
            with pytest.raises(ManifestError, match="lies neither in the recipe's folder nor below"):
                read(recipe)
            if name != "/etc/passwd":
                with open_source(str(recipe), roots=["s3://b/x", str(other)]) as manifest:
                    assert manifest.rows == 1


def test_a_file_that_is_swapped_while_it_is_opened_is_judged_by_what_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "secret.txt").write_text("a secret\n")
    inside = tmp_path / "home" / "p.txt"
    inside.write_text("a fox\n")
    real_open = os.open

    def swapping(path: str, *rest: int, **more: int) -> int:
        if str(path) == str(inside):
            inside.unlink()
            inside.symlink_to(tmp_path / "secret.txt")
        return real_open(path, *rest, **more)

    monkeypatch.setattr("os.open", swapping)
    with pytest.raises(ManifestError, match="lies neither in"):
        read(_recipe(tmp_path / "home", "prompts: {file: p.txt}"))


@pytest.mark.parametrize(
    "name", ["s3://b/other/p.txt", "../p.txt", "a/../../p.txt", "s3://c/in/p.txt", "s3://b/in"]
)
def test_a_recipe_in_s3_stays_below_its_prefix(name: str) -> None:
    def fetch(uri: str, file: io.BytesIO) -> None:
        assert uri == "s3://b/in/r.yaml"
        file.write(f"prompts: {{file: '{name}'}}\n".encode())

    with pytest.raises(ManifestError, match="lies neither in"), open_source("s3://b/in/r.yaml", fetch=fetch):
        pass


def test_a_spool_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with suppress(ManifestError), spooled(lambda file: file.write(b"x"), "x", 10) as path:
        assert path.read_bytes() == b"x"
        assert not list(tmp_path.iterdir())
