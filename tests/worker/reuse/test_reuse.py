"""Images of the same inputs are copied, and whatever differs in any input is rendered."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine, text

from jobs.images.find_copies_of_reused_images import copies_of
from jobs.policy.batch_policy import BatchPolicy, policy_keys
from jobs.queue import transitions
from jobs.settings import Settings
from scheduler.ingest.ingest import Ingested
from tests.factories import change
from tests.worker.contexts import images_of, jobs_of, render, worker_context_for
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7, "label": "fox"}
ROWS = [FOX, {**FOX, "seed": 8}, {"prompt": "a blue bird", "steps": 3, "seed": 7, "width": 96}]
NOT_THE_IMAGE = {
    "batch_seed",
    "seed_from",
    "watermark_text",
    "max_attempts",
    "priority",
    "reuse",
    "on_end",
    "window",
    "not_before",
    "deadline",
    "canary",
    "canary_bound",
    "target",
    "target_per",
    "max_replacement_ratio",
    "accept",
    "duplicate_distance",
}
OWN = {"id", "xid", "epoch", "job_id", "batch_id", "key", "timings", "created_at", "reused_from", "meta"}


@pytest.fixture
def context(
    settings: Settings, models_folder: Path, model_cache: ModelCache, engine: Engine
) -> Iterator[WorkerContext]:
    """A context whose worker reuses images."""
    own = settings.model_copy(update={"models_dir": models_folder, "retry_delay_s": 0, "reuse": True})
    with worker_context_for(own, engine, model_cache) as context:
        yield context


def reused(engine: Engine, batch: Ingested) -> list[int | None]:
    return [image["reused_from"] for image in images_of(engine, batch)]


def file_of(context: WorkerContext, image: dict[str, Any]) -> Path:
    return Path(context.settings.output) / image["key"]


def test_a_batch_of_the_same_rows_is_copied(context: WorkerContext, engine: Engine, tmp_path: Path) -> None:
    first = images_of(engine, render(context, tmp_path, ROWS))
    renamed = [{**row, "label": "other"} for row in ROWS]
    again = render(context, tmp_path, renamed, output=str(tmp_path / "elsewhere"))
    copies = images_of(engine, again)
    rendered = [image["id"] for image in first]
    assert [copy["reused_from"] for copy in copies] == rendered
    for copy, image in zip(copies, first, strict=True):
        assert {name: copy[name] for name in copy.keys() - OWN} == {
            name: image[name] for name in image.keys() - OWN
        }
        assert copy["timings"].keys() >= {"reuse"}
        assert not copy["timings"].keys() & {"generate", "encode"}
        assert copy["meta"] == {"label": "other"}
        body = (tmp_path / "elsewhere" / copy["key"]).read_bytes()
        assert copy["key"].startswith("batch-1/images/")
        assert sha256(body).hexdigest() == image["sha256"]
    third = render(context, tmp_path, [*ROWS, {**FOX, "seed": 9}])
    assert reused(engine, third) == [*rendered, None]
    assert copies_of(engine, rendered[:1]) == [copies[0]["id"], images_of(engine, third)[0]["id"]]
    assert copies_of(engine, [copies[0]["id"]]) == [rendered[0], images_of(engine, third)[0]["id"]]
    change(engine, "UPDATE images SET reused_from = 10 ^ 9 WHERE id = :id", id=copies[0]["id"])
    assert rendered[0] in copies_of(engine, [copies[0]["id"]]), "by the same inputs and file"


def test_another_input_is_rendered(context: WorkerContext, engine: Engine, tmp_path: Path) -> None:
    render(context, tmp_path, [FOX])
    changes = (
        {"prompt": "a red fox."},
        {"negative_prompt": "blurred"},
        {"seed": 9},
        {"steps": 3},
        {"guidance_scale": 3.0},
        {"sampler": "euler"},
        {"width": 96},
        {},
    )
    found = reused(engine, render(context, tmp_path, [{**FOX, **change} for change in changes]))
    assert [number is not None for number in found] == [*[False] * 7, True]


def test_another_policy_is_rendered(context: WorkerContext, engine: Engine, tmp_path: Path) -> None:
    render(context, tmp_path, [FOX])
    for policy in (
        {"format": "webp"},
        {"parameters": "false"},
        {"watermark": "off"},
        {"watermark_text": "OURS"},
        {"safety": "flag"},
        {"safety_strength": "strong"},
        {"deep_cache": "2"},
        {"reuse": "false"},
    ):
        assert reused(engine, render(context, tmp_path, [FOX], **policy)) == [None], policy
    assert reused(engine, render(context, tmp_path, [FOX], priority="5")) != [None]


def test_the_policy_that_affects_images_is_all_but_what_is_known_not_to() -> None:
    assert {name for name, key in policy_keys().items() if not key.affects_images} == NOT_THE_IMAGE
    assert BatchPolicy().affecting_images() == {}
    assert BatchPolicy(quality=80, target=5).affecting_images() == {"quality": 80}


def test_another_mark_batch_size_or_none_by_the_worker(
    context: WorkerContext, engine: Engine, tmp_path: Path, models_folder: Path
) -> None:
    render(context, tmp_path, [FOX])
    for changed_settings in (
        {"watermark": "OURS"},
        {"batch_size": 2},
        {"reuse": False},
    ):
        other = context.settings.model_copy(update=changed_settings)
        with worker_context_for(other, engine, ModelCache(other, 0)) as changed:
            assert reused(engine, render(changed, tmp_path, [FOX])) == [None], changed_settings
    same = context.settings.model_copy(update={"batch_size": 4})
    with worker_context_for(same, engine, ModelCache(same, 0)) as unchanged:
        assert reused(engine, render(unchanged, tmp_path, [FOX])) != [None]


def test_what_the_prompt_filter_finds_is_an_input_and_its_list_is_not(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    render(context, tmp_path, [FOX], safety="flag")
    found = []
    for terms in ("zebra", "fox"):
        (tmp_path / f"{terms}.txt").write_text(terms)
        other = context.settings.model_copy(update={"prompt_terms": tmp_path / f"{terms}.txt"})
        with worker_context_for(other, engine, ModelCache(other, 0)) as changed:
            (image,) = images_of(engine, render(changed, tmp_path, [FOX], safety="flag"))
        found.append((image["reused_from"] is not None, image["safety_reason"]))
    assert found == [(True, None), (False, "prompt holds 'fox'")]


@pytest.mark.parametrize("harm", ["missing", "damaged", "unmounted"])
def test_what_cannot_be_copied_is_rendered(
    harm: str, context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    first = images_of(engine, render(context, tmp_path, ROWS))
    for image in first[:2]:
        file = file_of(context, image)
        if harm == "missing":
            file.unlink()
        if harm == "damaged":
            file.write_bytes(file.read_bytes()[:-1] + b"x")
    if harm == "unmounted":
        Path(context.settings.output).rename(tmp_path / "away")
    again = render(context, tmp_path, ROWS, output=str(tmp_path / "elsewhere"))
    found, jobs = images_of(engine, again), jobs_of(engine, again)
    last = None if harm == "unmounted" else first[2]["id"]
    assert [image["reused_from"] for image in found] == [None, None, last]
    assert [image["sha256"] for image in found] == [image["sha256"] for image in first]
    assert [(job["state"], job["attempt"]) for job in jobs] == [("done", 1)] * 3


def test_an_image_that_was_retracted_is_not_copied(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FOX])
    (image,) = images_of(engine, batch)
    transitions.retract(
        engine, batch.id, [(image["id"], image["key"])], "wrong", is_archived=False, keeps_file=True
    )
    assert reused(engine, render(context, tmp_path, [FOX])) == [None]


def test_input_images_are_compared_by_their_bytes(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    photo, copy, other = (tmp_path / f"{name}.png" for name in ("photo", "copy", "other"))
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    Image.fromarray(pixels).save(photo)
    copy.write_bytes(photo.read_bytes())
    Image.fromarray(255 - pixels).save(other)
    row = {**FOX, "init_image": str(photo), "strength": 0.5, "steps": 4}
    (first,) = images_of(engine, render(context, tmp_path, [row]))
    rows = [{**row, "init_image": str(copy)}, {**row, "init_image": str(other)}, {**row, "strength": 0.75}]
    assert reused(engine, render(context, tmp_path, rows)) == [first["id"], None, None]


def test_the_public_record_has_no_digest_of_inputs(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    from jobs.images.insert_and_public_columns import public_columns

    names = [column.name for column in public_columns()]
    assert ("reused_from" in names, "inputs_sha256" in names) == (True, False)
    (image,) = images_of(engine, render(context, tmp_path, [FOX]))
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = connection.execute(text("EXPLAIN SELECT id FROM images WHERE inputs_sha256 = 'a'")).scalars()
        assert "images_inputs_idx" in json.dumps(list(plan))
    assert len(image["inputs_sha256"]) == 64
