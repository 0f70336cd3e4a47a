"""C2PA manifests that lie beside images are exported with them: in archives, in folders, in columns, and as copies."""

import base64
import json
import sqlite3
import subprocess
import tarfile
import warnings
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.errors import ObjectStoreError
from jobs.storage.open import S3Options, open_store
from scheduler.export.check_export_folder import check_export_folder
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.run_export import export
from tests.factories import change, look
from tests.scheduler.export.datasets import manifest_of, with_pictures

WITH = (0, 2)
EXPECTED = [manifest_of(0), None, manifest_of(2)]


@pytest.fixture
def batch(engine: Engine, tmp_path: Path) -> BatchStatus:
    """Three images, of which the first and the last have a manifest beside them."""
    return with_pictures(engine, tmp_path / "output", 3, sidecars=WITH, name="foxes")


def exported(engine: Engine, folder: Path, format: str, **options: Any) -> Path:
    batch = actions.status(engine, "foxes")
    store, images = open_store(str(folder), S3Options()), open_store(batch.output, S3Options())
    export(
        engine,
        ExportRequest([batch], format, store, name="set", options=ExportOptions(**options)),
        lambda _: images,
    )
    return folder


def rows_of(engine: Engine) -> list[dict[str, Any]]:
    return look(engine, "SELECT * FROM images ORDER BY ordinal")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.usefixtures("batch")
class TestFormats:
    def test_archives(self, engine: Engine, tmp_path: Path) -> None:
        folder = exported(engine, tmp_path / "set", "webdataset")
        with tarfile.open(folder / "00000.tar") as tar:
            found = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        assert [name for name in found if name.endswith("c2pa")] == ["000000000.c2pa", "000000002.c2pa"]
        assert list(found) == sorted(found)
        assert found["000000002.c2pa"] == manifest_of(2)
        whole = (folder / "00000.tar").read_bytes()
        database = sqlite3.connect(folder / ".nv-meta" / "index.sqlite")
        parts = database.execute(
            "SELECT sample_index, part_name, content_byte_offset, content_byte_size FROM sample_parts"
        )
        told = {f"{sample:09d}.{name}": whole[at : at + size] for sample, name, at, size in parts}
        database.close()
        assert told == found

    def test_datasets_loads_archives_of_samples_with_and_without(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        folder = exported(engine, tmp_path / "set", "webdataset")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["c2pa"] == EXPECTED

    def test_folders(self, engine: Engine, tmp_path: Path) -> None:
        folder = exported(engine, tmp_path / "set", "hf", layout="imagefolder") / "train" / "00000"
        for row, manifest in zip(rows_of(engine), EXPECTED, strict=True):
            image = folder / row["key"].rpartition("/")[2]
            assert image.is_file()
            beside = image.with_suffix(".c2pa")
            assert (beside.read_bytes() if beside.exists() else None) == manifest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = datasets.load_dataset(
                str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
            )
        assert (len(loaded), set(loaded["c2pa_sidecar_sha256"])) == (
            3,
            {row["c2pa_sidecar_sha256"] for row in rows_of(engine)},
        )

    def test_columns(self, engine: Engine, tmp_path: Path) -> None:
        (file,) = exported(engine, tmp_path / "hf", "hf").glob("data/*.parquet")
        assert pq.read_table(file).column("c2pa_manifest").to_pylist() == EXPECTED
        lines = lines_of(exported(engine, tmp_path / "jsonl", "jsonl", embed_images=True))
        texts = [line["c2pa_manifest"] for line in lines]
        assert [text and base64.b64decode(text) for text in texts] == EXPECTED

    def test_the_card_says_where_they_are(self, engine: Engine, tmp_path: Path) -> None:
        change(engine, "UPDATE images SET c2pa_manifest_id = 'urn:c2pa:' || id")
        card = (exported(engine, tmp_path / "set", "jsonl") / "README.md").read_text()
        assert (
            "3 of 3 files bear a signed C2PA manifest (`c2pa_manifest_id`); of 2 it is in a file beside"
            in card
        )


@pytest.mark.usefixtures("batch")
class TestCopies:
    def test_they_lie_beside_the_copies(self, engine: Engine, tmp_path: Path) -> None:
        folder = exported(engine, tmp_path / "set", "jsonl", copy_images=True)
        (tmp_path / "output").rename(tmp_path / "gone")
        rows = lines_of(folder)
        for row, manifest in zip(rows, EXPECTED, strict=True):
            beside = (folder / row["path"]).with_suffix(".c2pa")
            assert (folder / row["path"]).is_file()
            assert (beside.read_bytes() if manifest else None) == manifest
        assert len(list(folder.glob("_images/*/*"))) == 5
        subprocess.run(
            ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True
        )
        store = open_store(str(folder), S3Options())
        for each in check_export_folder(store, "", []):
            assert (each.missing, each.changed, each.unlisted) == ([], [], [])
        sets = json.loads((folder / "croissant.json").read_text())["distribution"]
        assert {each["includes"] for each in sets if "includes" in each} >= {
            "_images/*/*.png",
            "_images/*/*.c2pa",
        }
        next(folder.glob("_images/*/*.c2pa")).write_bytes(b"changed")
        assert sum(len(each.changed) for each in check_export_folder(store, "", [])) == 1

    @pytest.mark.parametrize("is_there", [True, False])
    def test_a_shard_is_written_again_though_the_manifests_are_gone(
        self, engine: Engine, tmp_path: Path, *, is_there: bool
    ) -> None:
        """As long as the copies are there."""
        folder = exported(engine, tmp_path / "set", "jsonl", copy_images=True)
        sums = (folder / "SHA256SUMS").read_text()
        for each in (tmp_path / "output").rglob("*.c2pa"):
            each.unlink()
        change(engine, "UPDATE export_shards SET generation = generation + 1")
        if is_there:
            exported(engine, tmp_path / "set", "jsonl", copy_images=True)
            assert (folder / "SHA256SUMS").read_text() == sums
            (shard,) = look(engine, "SELECT files FROM export_shards")
            sizes = [file["bytes"] for file in shard["files"] if file["name"].endswith("c2pa")]
            assert sizes == [len(manifest_of(ordinal)) for ordinal in WITH]
        else:
            next(folder.glob("_images/*/*.c2pa")).unlink()
            with pytest.raises(ObjectStoreError, match="c2pa"):
                exported(engine, tmp_path / "set", "jsonl", copy_images=True)

    def test_equal_pictures_keep_each_its_manifest(self, engine: Engine, tmp_path: Path) -> None:
        """Also where shards are written one after the other."""
        first, _, third = rows_of(engine)
        output = open_store(str(tmp_path / "output"), S3Options())
        output.put(third["key"], output.get(first["key"]), content_type="image/png")
        change(
            engine,
            "UPDATE images SET sha256 = :sha256, bytes = :bytes WHERE ordinal = 2",
            sha256=first["sha256"],
            bytes=first["bytes"],
        )
        exporter = exporter_of("jsonl")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "shard_rows", 2)
            folder = exported(engine, tmp_path / "set", "jsonl", copy_images=True)
        rows = lines_of(folder)
        found = [(folder / rows[number]["path"]).with_suffix(".c2pa").read_bytes() for number in WITH]
        assert found == [manifest_of(0), manifest_of(2)]

    @pytest.mark.parametrize("harm", ["missing", "damaged"])
    def test_without_its_manifest_no_image_is_exported(
        self, engine: Engine, tmp_path: Path, harm: str
    ) -> None:
        (sidecar, _) = sorted((tmp_path / "output").rglob("*.c2pa"))
        if harm == "missing":
            sidecar.unlink()
        else:
            sidecar.write_bytes(b"damaged")
        for format, options in (("jsonl", {"copy_images": True}), ("webdataset", {})):
            with pytest.raises(ObjectStoreError, match="c2pa"):
                exported(engine, tmp_path / format, format, **options)
