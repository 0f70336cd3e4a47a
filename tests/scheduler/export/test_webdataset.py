"""WebDataset: archives that are the same bytes each time, opened by webdataset, datasets, tar and tarfile."""

import gc
import io
import json
import struct
import subprocess
import tarfile
import warnings
from itertools import repeat
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from sqlalchemy import Engine

from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Shard, exporter_of
from scheduler.export.tar.ustar import header
from tests.factories import change
from tests.scheduler.export.datasets import SIZE, shard_of, with_pictures, write

ROWS: list[dict[str, Any]] = [
    {"prompt": "a fox", "id": "r0", "seed": 2**64 - 1, "label": "fox"},
    {"prompt": "two owls", "num_images": 2, "label": "owl", "nested": {"deep": [1, None]}},
    {"prompt": "a wolf", "caption": "Ein Wölf ☃"},
    {"prompt": "a bear", "label": 7},
    {"prompt": "a lynx", "caption": 5},
]
CAPTIONS = ["a fox", "two owls", "two owls", "Ein Wölf ☃", "a bear", "a lynx"]


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Path:
    """An export of two shards: three rows with four images, and two rows."""
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    write(engine, batch, "webdataset", tmp_path / "export", rows=3)
    return tmp_path / "export"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows beside the archives."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_an_archive_has_each_image_with_its_caption_and_row(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        f"0000{shard}.{kind}" for shard in range(2) for kind in ("parquet", "tar", "tar.idx")
    ]
    with tarfile.open(folder / "00000.tar") as tar:
        members = tar.getmembers()
        contents = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    keys = [f"00000{number:04d}" for number in range(4)]
    assert [member.name for member in members] == [
        f"{key}.{kind}" for key in keys for kind in ("json", "png", "txt")
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    for key, row, caption in zip(keys, rows_of(folder), CAPTIONS, strict=False):
        told = json.loads(contents[f"{key}.json"])
        assert row["sample_key"] == key
        assert (told["sha256"], told["ordinal"], told["index"]) == (
            row["sha256"],
            row["ordinal"],
            row["index"],
        )
        assert told["meta"] == json.loads(row["meta"])
        assert told["safety_scores"] == {"concepts": [-0.1, -0.2]}
        assert contents[f"{key}.txt"].decode() == caption
        assert Image.open(io.BytesIO(contents[f"{key}.png"])).size == (SIZE, SIZE)


def test_rows_say_where_their_sample_is(folder: Path) -> None:
    archive = (folder / "00001.tar").read_bytes()
    offsets = struct.unpack("<3Q", (folder / "00001.tar.idx").read_bytes())
    rows = pq.read_table(folder / "00001.parquet").to_pylist()
    assert [row["tar_offset"] for row in rows] == list(offsets[:-1])
    for row in rows:
        text = archive[row["tar_offset"] + 512 :][: row["json_bytes"]]
        assert json.loads(text)["image_id"] == row["image_id"]
    assert set(archive[offsets[-1] :]) == {0}
    assert len(archive) % 10240 == 0


def test_it_is_the_same_bytes_each_time(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS)
    for name in ("one", "other"):
        write(engine, batch, "webdataset", tmp_path / name, rows=2)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 9
    assert [path.read_bytes() for path in files] == [
        (tmp_path / "other" / path.name).read_bytes() for path in files
    ]


def test_a_shard_of_more_than_ten_thousand_images_has_longer_keys(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 1)
    (first,) = [rows for shard in shard_of(engine, batch) for rows in shard.images]
    for count, last in ((10_000, "000079999"), (10_001, "0000710000")):
        repeated = pa.Table.from_batches([first]).take([0] * count).combine_chunks().to_batches()
        shard = Shard(
            7,
            8,
            iter(repeated),
            lambda rows: repeat(b"", rows.num_rows),
            lambda rows: repeat(None, rows.num_rows),
        )
        exporter_of("webdataset")(ExportOptions()).write(tmp_path, shard)
        keys = pq.read_table(tmp_path / "00007.parquet").column("sample_key").to_pylist()
        assert keys == sorted(set(keys))
        assert (len(keys), keys[-1]) == (count, last)


def test_headers_are_those_of_tarfile() -> None:
    for name, size in (("a", 0), ("000000001.json", 12_345), ("x" * 99, 8**11 - 1)):
        info = tarfile.TarInfo(name)
        info.size = size
        assert header(name.encode(), size) == info.tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match="USTAR has no room"):
        header(b"x" * 100, 1)


def test_gnu_tar_lists_and_extracts_it(folder: Path, tmp_path: Path) -> None:
    listed = subprocess.run(
        ["tar", "tvf", folder / "00000.tar"],
        check=True,
        capture_output=True,
        text=True,
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    )
    assert listed.stderr == ""
    assert len(listed.stdout.splitlines()) == 12
    assert "1970-01-01 00:00 000000000.json" in listed.stdout
    subprocess.run(["tar", "xf", folder / "00000.tar", "-C", tmp_path, "--no-same-owner"], check=True)
    assert (tmp_path / "000000003.txt").read_text() == "Ein Wölf ☃"


def test_webdataset_decodes_it(folder: Path) -> None:
    with warnings.catch_warnings():  # webdataset leaves closing its files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        reader = webdataset.WebDataset(str(folder / "{00000..00001}.tar"), shardshuffle=False)
        samples = list(reader.decode("pil"))
        del reader
        gc.collect()
    assert [sample["txt"] for sample in samples] == CAPTIONS
    assert [sample["json"]["sha256"] for sample in samples] == [row["sha256"] for row in rows_of(folder)]
    assert {sample["png"].size for sample in samples} == {(SIZE, SIZE)}
    assert samples[0]["json"]["seed"] == str(2**64 - 1)
    assert samples[1]["json"]["meta"] == {"label": "owl", "nested": {"deep": [1, None]}}


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_it(folder: Path, streaming: bool, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(
        "webdataset",
        data_files={"train": str(folder / "*.tar")},
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    samples = list(loaded)
    assert [sample["txt"] for sample in samples] == CAPTIONS
    assert samples[0]["png"].size == (SIZE, SIZE)
    assert samples[3]["json"]["meta"] == {"label": None, "nested": None, "caption": "Ein Wölf ☃"}
    assert [sample["json"]["sha256"] for sample in samples] == [row["sha256"] for row in rows_of(folder)]


@pytest.mark.parametrize(("format", "extension"), [("jpeg", "jpg"), ("webp", "webp")])
def test_members_are_sorted_in_every_format(
    engine: Engine, tmp_path: Path, format: str, extension: str
) -> None:
    batch = with_pictures(engine, tmp_path / "output", 2, format)
    write(engine, batch, "webdataset", tmp_path / "export")
    with tarfile.open(tmp_path / "export" / "00000.tar") as tar:
        names = tar.getnames()
    assert names == sorted(names)
    assert f"000000001.{extension}" in names


def test_a_shard_without_images_has_no_archive(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 2)
    change(engine, "DELETE FROM images WHERE ordinal = 0")
    assert [file.name for file in write(engine, batch, "webdataset", tmp_path / "export", rows=1)] == [
        f"00001.{kind}" for kind in ("tar", "tar.idx", "parquet")
    ]
    assert not (tmp_path / "export" / "00000.tar").exists()
