"""The index of an export: a card that the hub reads, Croissant, a data contract, checksums; all found in the tables."""

import gc
import json
import re
import sqlite3
import subprocess
import tarfile
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import jsonschema
import mlcroissant
import pytest
import yaml
from huggingface_hub import DatasetCard
from open_data_contract_standard.model import OpenDataContractStandard
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.batches.drop_jobs_and_delete_batches import archive
from jobs.queue import transitions
from jobs.storage.open import S3Options, open_store
from scheduler.export.dataset_metadata.column_descriptions import description
from scheduler.export.dataset_metadata.dataset_card_metadata import size_category
from scheduler.export.export_request import ExportRequest
from scheduler.export.rows.find_meta_columns import find_meta_columns
from scheduler.export.run_export import export as run_export
from tests.factories import change, look
from tests.scheduler.export.datasets import SIZE, with_index, with_pictures

LABELS = ["fox", "owl", "fox", "<b>|wolf*", "bear", "bear"]
ROWS: list[dict[str, Any]] = [
    {"prompt": f"p{number}", "id": f"r{number}", "label": label, "seed": 2**64 - 1 - number}
    for number, label in enumerate(LABELS)
]
FORMATS = ["csv", "hf", "jsonl", "parquet", "webdataset"]


def exported(engine: Engine, tmp_path: Path, format: str, **options: Any) -> Path:
    """An export of six rows in shards of two, with its index."""
    rows = [*ROWS[:-1], ROWS[-1] | {"more": {"keys": [1]}}]
    batch = with_pictures(engine, tmp_path / "output", rows, name="foxes", changes={"model_revision": "r1"})
    change(engine, "UPDATE images SET model = 'sd-v1-4'")
    given = {"meta_columns": find_meta_columns(engine, [batch.id])} if format != "webdataset" else {}
    with_index(engine, [batch], format, tmp_path / "export", 2, **given, **options)
    return tmp_path / "export"


def take_back(engine: Engine, batch: BatchStatus, *ordinals: int, is_archived: bool = False) -> None:
    """Retract images by their rows of the manifest."""
    rows = look(engine, "SELECT id, key FROM images WHERE ordinal = ANY (:ordinals)", ordinals=list(ordinals))
    found = [(row["id"], row["key"]) for row in rows]
    transitions.retract(engine, batch.id, found, "bad", is_archived=is_archived, keeps_file=True)


def index_file(folder: Path, format: str, name: str) -> Path:
    return folder / (f"_{name}" if format == "parquet" else name)


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_was_carried_away_is_verified_by_sha256sum(
    engine: Engine, tmp_path: Path, format: str
) -> None:
    folder = exported(engine, tmp_path, format).rename(tmp_path / "elsewhere")
    sums = index_file(folder, format, "SHA256SUMS").name
    check = ["sha256sum", "--strict", "-c", sums]
    told = subprocess.run(check, cwd=folder, check=True, capture_output=True, text=True).stdout
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {line.rpartition(":")[0] for line in told.splitlines()} == files - {sums}
    index_file(folder, format, "README.md").write_text("changed")
    assert subprocess.run(check, cwd=folder, check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_datasets_loads_the_folder(engine: Engine, tmp_path: Path, format: str, streaming: bool) -> None:
    folder = exported(engine, tmp_path, format)
    with warnings.catch_warnings():  # its reader of CSV leaves files open
        warnings.simplefilter("ignore", ResourceWarning)
        cache = str(tmp_path / "cache")
        what: dict[str, Any] = {"path": str(folder)}
        if format == "parquet":  # the files have their types, and the folder no card that it would find
            what = {"path": format, "data_files": f"{folder}/part-*"}
        loaded = datasets.load_dataset(**what, split="train", streaming=streaming, cache_dir=cache)
        samples = list(loaded)
        gc.collect()
    assert len(samples) == 6
    if format == "webdataset":
        assert [sample["json"]["meta"]["label"] for sample in samples] == LABELS
        assert samples[5]["json"]["meta"]["more"] == {"keys": [1]}
        assert samples[0]["json"]["quality"] == {"clip_model": "judge", "clip_score": 31.25}
        assert {sample["png"].size for sample in samples} == {(SIZE, SIZE)}
    elif format != "jsonl":
        assert [sample["meta.label"] for sample in samples] == LABELS
    if format == "hf":
        assert samples[0]["image"].size == (SIZE, SIZE)


def test_splits_and_folders_are_loaded_by_the_card(engine: Engine, tmp_path: Path) -> None:
    split = (("train", 0.5), ("val", 0.5))
    for layout in ("parquet", "imagefolder"):
        folder = exported(engine, tmp_path / layout, "hf", split=split, layout=layout)
        loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == {"train", "val"}
        assert sum(part.num_rows for part in loaded.values()) == 6
        change(engine, "DELETE FROM images; DELETE FROM batches")


def test_the_card_tells_what_is_in_it(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes", changes={"model_revision": "r1"})
    change(engine, "UPDATE images SET model = 'sd-v1-4', bytes = 400000")
    folder = tmp_path / "export"
    with_index(engine, [batch], "parquet", folder, 2)
    text = (folder / "_README.md").read_text(encoding="utf-8")
    found = DatasetCard(text).data.to_dict()
    assert found["license"] == "creativeml-openrail-m"
    assert found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["text-to-image"]
    paths = found["configs"][0]["data_files"][0]["path"]
    assert paths == [f"part-0000{number}.parquet" for number in range(3)]
    manifest = re.findall("Manifest `([^`/]+)`", text)[0]
    for told in (
        "6 synthetic images (2.4 MB)",
        "| 24 x 24 | png | 6 | 2.4 MB |",
        "| bear | 2 | 2 | 0 | 0 | 0 | 0 |",
        "| `sd-v1-4` | r1 | `0000000000000000…` |  | 6 | [CreativeML OpenRAIL-M](https://",
        "**Stable Diffusion v1-4**: Made for research.",
        "| `NMIL` | dwtDctSvd | 6 | 1.000 |",
        "policy `block`",
        "--name foxes --model sd-v1-4",
        f"nightmill run {manifest} ",
        "&lt;b&gt;&#124;wolf&#42;",
    ):
        assert told in text, told
    assert "<b>" not in text
    pictures = re.findall(r'<img src="([^"]+)"', text)
    assert len(pictures) == 4
    assert all((folder / name).exists() for name in pictures)


@pytest.mark.parametrize("is_archived", [False, True])
def test_every_job_is_counted_in_the_card(engine: Engine, tmp_path: Path, is_archived: bool) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    take_back(engine, batch, 2, 4)
    if is_archived:
        archive(engine, actions.status(engine, "foxes"))
        take_back(engine, batch, 5, is_archived=True)
    with_index(engine, [actions.status(engine, "foxes")], "jsonl", tmp_path / "export")
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    bears = "| bear | 2 | 0 | 0 | 0 | 0 | 2 |" if is_archived else "| bear | 2 | 1 | 0 | 0 | 0 | 1 |"
    gone = 3 if is_archived else 2
    for told in (
        f"| done | {6 - gone} |\n| retracted | {gone} |\n| rows rejected | 0 |",
        "| label | wanted | done | failed | blocked | cancelled | retracted |",
        "| fox | 2 | 1 | 0 | 0 | 0 | 1 |",
        bears,
    ):
        assert told in text, text


def test_unfinished_jobs_are_counted_by_class(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    take_back(engine, batch, 2)
    actions.retry_retracted(engine, batch.id)
    with_index(engine, [actions.status(engine, "foxes")], "jsonl", tmp_path / "export")
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "| label | wanted | done | failed | blocked | cancelled | retracted | queued |" in text
    assert "| fox | 2 | 1 | 0 | 0 | 0 | 0 | 1 |" in text


def test_pictures_are_of_different_classes_and_safe(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS)
    change(engine, "UPDATE images SET safety_verdict = 'flagged' WHERE ordinal = 1")
    with_index(engine, [batch], "jsonl", tmp_path / "export")
    shown = {path.read_bytes() for path in (tmp_path / "export" / ".pictures").iterdir()}
    files = sorted((tmp_path / "output").rglob("*.png"))
    ordinals = {int(path.name[:9]) for path in files if path.read_bytes() in shown}
    assert len(shown) == 4
    assert 1 not in ordinals
    assert {3, 4} & ordinals


def test_the_card_says_that_blackened_images_have_no_mark(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    unmarked = "UPDATE images SET watermark = NULL, watermark_method = NULL, watermark_bit_accuracy = NULL"
    change(engine, unmarked + ", safety_verdict = 'blackened' WHERE ordinal < 2")
    with_index(engine, [batch], "jsonl", tmp_path / "export", 2)
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "| none |  | 2 |  |  |\n" in text
    assert "Blackened images have no mark: every pixel of them is black." in text


def test_the_card_counts_files_that_say_what_they_are(engine: Engine, tmp_path: Path) -> None:
    """Of a withheld image, a signed copy of one, a copy of one, a row of a version before and a copy of that."""
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    ids = [row["id"] for row in look(engine, "SELECT id FROM images ORDER BY ordinal")]
    change(engine, "UPDATE images SET safety_verdict = 'blackened' WHERE ordinal > 0")
    for id, values in zip(
        ids,
        (
            {"pixels_sha256": "ab" * 32},
            {"timings": '{"encode": 0.1, "iscc_code": 0}'},
            {"reused_from": 0, "c2pa_manifest_id": "urn:c2pa:1"},
            {"reused_from": ids[1]},
            {"timings": '{"encode": 0.1}'},
            {"reused_from": ids[4]},
        ),
        strict=True,
    ):
        given = ", ".join(f"{name} = :{name}" for name in values)
        change(engine, f"UPDATE images SET {given} WHERE id = :id", id=id, **values)  # noqa: S608
    with_index(engine, [batch], "jsonl", tmp_path / "export")
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert " 4 say in their XMP metadata, as IPTC's DigitalSourceType, that a model made them." in text


def test_the_card_counts_weak_marks(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    change(engine, "UPDATE images SET watermark_method = 'tiled', watermark = '00beef0000000001'")
    change(
        engine, "UPDATE images SET watermark_strength = CASE WHEN ordinal < 2 THEN 'weak' ELSE 'strong' END"
    )
    with_index(engine, [batch], "jsonl", tmp_path / "export")
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert f"| `00beef…` | tiled | {len(ROWS)} | 1.000 | 2 |\n" in text
    assert "Weak marks may be lost when a file is compressed again (`watermark_strength`)." in text
    (part,) = (tmp_path / "export").glob("part-*.jsonl")
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    assert sorted(row["watermark_strength"] for row in rows) == ["strong"] * (len(ROWS) - 2) + ["weak"] * 2


def test_a_card_without_pictures_where_they_cannot_be_read(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 2)
    for path in (tmp_path / "output").rglob("*.png"):
        path.unlink()
    with_index(engine, [batch], "parquet", tmp_path / "export")
    assert "<img" not in (tmp_path / "export" / "_README.md").read_text()
    assert not (tmp_path / "export" / ".pictures").exists()


def test_a_checkers_digest_is_told(engine: Engine, tmp_path: Path) -> None:
    changes = {"versions": {"torch": "2", "safety_checker_digest": "ab" * 32}}
    batch = with_pictures(engine, tmp_path / "output", 1, changes=changes)
    with_index(engine, [batch], "parquet", tmp_path / "export")
    assert f"SHA-256 of its files: `{'ab' * 32}`" in (tmp_path / "export" / "_README.md").read_text()


def test_a_dataset_of_several_batches_tells_of_all(engine: Engine, tmp_path: Path) -> None:
    batches = [
        with_pictures(engine, tmp_path / "output", 2, name=name, safety=safety)
        for name, safety in (("a", "flag"), ("b", "block"))
    ]
    with_index(engine, batches, "parquet", tmp_path / "export")
    text = (tmp_path / "export" / "_README.md").read_text()
    assert "# a-b" in text
    assert "4 synthetic images" in text
    assert "policy `block`, `flag`" in text
    assert text.count("Manifest `batch-") == 2
    assert "--set safety=flag" in text


def test_the_card_tells_how_strict_the_safety_checker_was(engine: Engine, tmp_path: Path) -> None:
    policy = {"safety_strength": "strong", "safety_thresholds": "3=0.02"}
    batch = with_pictures(engine, tmp_path / "output", 1, name="a", **policy)
    with_index(engine, [batch], "parquet", tmp_path / "export")
    text = (tmp_path / "export" / "_README.md").read_text()
    assert "policy `block` at the strength `strong` with `3=0.02` added to its scores; checker" in text
    assert "--set safety_strength=strong" in text


def test_the_card_tells_of_further_checkers_and_their_limits(engine: Engine, tmp_path: Path) -> None:
    checkers = "content-safety:Hate=2,nsfw-image-detection:nsfw=0.7"
    batch = with_pictures(engine, tmp_path / "output", 1, name="a", safety_checkers=checkers)
    with_index(engine, [batch], "parquet", tmp_path / "export")
    text = (tmp_path / "export" / "_README.md").read_text()
    assert "| `content-safety` | `Hate` | 2 |" in text
    assert "| `content-safety` | `Violence` | 4 |" in text
    assert "| `nsfw-image-detection` | `nsfw` | 0.7 |" in text
    assert "Limits of NSFW image detection: " in text


def test_an_export_without_images_has_an_index(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 1)
    change(engine, "DELETE FROM images")
    for format in FORMATS:
        with_index(engine, [batch], format, tmp_path / format)
        assert "0 synthetic images" in index_file(tmp_path / format, format, "README.md").read_text()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_mlcroissant_reads_the_rows(engine: Engine, tmp_path: Path, format: str) -> None:
    folder = exported(engine, tmp_path, format)
    dataset = mlcroissant.Dataset(jsonld=index_file(folder, format, "croissant.json"))
    assert (list(dataset.metadata.issues.errors), list(dataset.metadata.issues.warnings)) == ([], [])
    rows = list(dataset.records("images"))
    assert len(rows) == 6
    assert {row["images/prompt"] for row in rows} == {row["prompt"].encode() for row in ROWS}
    if format == "hf":
        assert rows[0]["images/image"].size == (SIZE, SIZE)
    described = json.loads(index_file(folder, format, "croissant.json").read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert described["rai:hasSyntheticData"] is True


@pytest.mark.parametrize("format", FORMATS)
def test_the_contract_is_of_the_standard(engine: Engine, tmp_path: Path, format: str) -> None:
    text = index_file(exported(engine, tmp_path, format), format, "datacontract.yaml").read_text()
    found = OpenDataContractStandard.from_string(text)
    schema = resources.files("open_data_contract_standard").joinpath("schema.json").read_text()
    jsonschema.validate(yaml.safe_load(text), json.loads(schema))
    assert found.schema_ is not None
    properties = {column.name: column for column in found.schema_[0].properties or []}
    assert properties["image_id"].primaryKey
    assert (properties["seed"].logicalType, properties["created_at"].logicalType) == ("integer", "timestamp")
    assert all(column.description for column in properties.values())


def test_columns_are_told_without_links() -> None:
    assert "](" not in description("versions")
    assert description("meta.label") == "the manifest's column label"


@pytest.mark.parametrize(
    ("images", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "n>1B")]
)
def test_sizes_are_the_hubs(images: int, name: str) -> None:
    assert size_category(images) == name


def test_energons_index_names_every_member(engine: Engine, tmp_path: Path) -> None:
    folder = exported(engine, tmp_path, "webdataset")
    with sqlite3.connect(folder / ".nv-meta" / "index.sqlite") as database:
        samples = database.execute("SELECT * FROM samples ORDER BY tar_file_id, sample_index").fetchall()
        parts = database.execute("SELECT * FROM sample_parts").fetchall()
    database.close()
    archives = yaml.safe_load((folder / ".nv-meta" / "split.yaml").read_text())["split_parts"]["train"]
    assert archives == [f"0000{number}.tar" for number in range(3)]
    found = []
    for number, name in enumerate(archives):
        with tarfile.open(folder / name) as tar:
            for place, member in enumerate(tar.getmembers()):
                extension = member.name.partition(".")[2]
                found.append((number, place // 3, extension, member.offset_data, member.size))
    assert sorted(parts) == sorted(found)
    assert [key for _, key, *_ in samples] == [f"0000{n // 2}000{n % 2}" for n in range(6)]
    info = json.loads((folder / ".nv-meta" / ".info.json").read_text())
    assert info["shard_counts"] == dict.fromkeys(archives, 2)


def test_an_export_writes_its_index_and_writes_it_anew_when_a_shard_changes(
    engine: Engine, tmp_path: Path
) -> None:
    output, folder = tmp_path / "output", tmp_path / "export"
    batch = with_pictures(engine, output, ROWS, name="foxes")
    order = ExportRequest([batch], "webdataset", open_store(str(folder), S3Options()))

    def export() -> dict[str, bytes]:
        run_export(engine, order, lambda _: open_store(str(output), S3Options()))
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    first = export()
    assert {"README.md", ".pictures/3.png", ".nv-meta/index.sqlite", "croissant.json"} <= first.keys()
    assert export() == first
    change(
        engine, "DELETE FROM images WHERE ordinal = 5; UPDATE export_shards SET generation = generation + 1"
    )
    second = export()
    assert b"5 synthetic images" in second["README.md"]
    listed = {file["name"] for file in json.loads(second["_SUCCESS"])["files"]}
    assert listed == second.keys() - {"_SUCCESS", ".nightmill-output.json"}
