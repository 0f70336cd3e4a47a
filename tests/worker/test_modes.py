"""Rows that start from pictures, all the way to their image rows: every mode on real queue, models and stores."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings, load_settings
from models.catalogue.catalogue import Catalogue
from models.provenance.image_claim import SourceType
from models.store.resolve_checkpoint import resolve
from tests.models.checkpoints import build
from tests.models.tiny_clip import build_clip
from tests.paths import ROOT
from tests.worker.conftest import CARD
from tests.worker.contexts import images_of, jobs_of, only_lane, render, submit, worker_context_for
from worker.imaging.encode import Pixels, decode
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

CLIP = """
id = "judge"
title = "A test"
family = "clip"
summary = "A test."
license = "CC0"
limits = "All."
source = "judge"
"""
LORA = """
id = "{id}"
title = "A test"
family = "lora"
summary = "A test."
license = "CC0"
limits = "All."
source = "{id}"
base = "tiny-random"
"""
CARDS = ROOT / "models" / "cards"
FOX = {"prompt": "a red fox", "steps": 4, "seed": 7}


@pytest.fixture(scope="module")
def model_cache(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    """The tiny models, and beside them ones that inpaint, take depth and name a CLIP."""
    folder = tmp_path_factory.mktemp("models-of-all-modes")
    shutil.copytree(shared_models, folder, dirs_exist_ok=True)
    (folder / "cards").mkdir(exist_ok=True)
    for id, system, mode in (("filler", "v1-inpainting", "inpaint"), ("relief", "v2-depth", "depth")):
        build(system, folder / id)
        text = CARD.format(id=id, source=id, checker="tiny-random-safety")
        (folder / "cards" / f"{id}.toml").write_text(text.replace('"text2image"]', f'"{mode}"]'))
    shutil.move(build_clip(tmp_path_factory.mktemp("clip")), folder / "judge")
    (folder / "cards" / "judge.toml").write_text(CLIP)
    for id, clip in (("judged", "judge"), ("unscored", "absent")):
        text = CARD.format(id=id, source="tiny-random", checker="tiny-random-safety")
        (folder / "cards" / f"{id}.toml").write_text(f'{text}clip = "{clip}"\n')
    enlarger = (CARDS / "tiny-random-x4.toml").read_text().replace('id = "tiny-random-x4"', 'id = "enlarger"')
    kept = [line for line in enlarger.splitlines() if not line.startswith(("aliases", "builder"))]
    (folder / "cards" / "enlarger.toml").write_text("\n".join([*kept, 'clip = "judge"', ""]))
    (folder / "cards" / "absent.toml").write_text(CLIP.replace("judge", "absent"))
    tiny = resolve(Catalogue.load(folder).get("tiny-random"), folder).path
    for number, id in enumerate(("ink", "fog", "strange")):
        _lora(folder / id, tiny / "unet" / "diffusion_pytorch_model.safetensors", number)
        (folder / "cards" / f"{id}.toml").write_text(LORA.format(id=id))
    return ModelCache(load_settings(models_dir=folder, batch_size=2), 0)


def _lora(folder: Path, unet: Path, number: int) -> None:
    """One of rank 2 on the queries of the tiny UNet; the last is for other layers."""
    generator = torch.Generator().manual_seed(number)
    weights = {}
    for name, matrix in load_file(unet).items():
        if name.endswith(".to_q.weight"):
            layer = f"unet.{name.removesuffix('.weight')}" + ("x" if number == 2 else "")
            weights[f"{layer}.lora_A.weight"] = torch.randn(2, matrix.shape[1], generator=generator)
            weights[f"{layer}.lora_B.weight"] = torch.randn(matrix.shape[0], 2, generator=generator)
    folder.mkdir()
    save_file(weights, folder / "lora.safetensors")


@pytest.fixture
def context(settings: Settings, model_cache: ModelCache, engine: Engine) -> Iterator[WorkerContext]:
    own = settings.model_copy(update={"models_dir": model_cache.settings.models_dir, "retry_delay_s": 0})
    with worker_context_for(own, engine, model_cache) as context:
        yield context


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A gradient with a bright square, twice as wide as high."""
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[..., 0] = np.arange(160)
    pixels[20:50, 60:100] = 240
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def drawn(context: WorkerContext, folder: Path, rows: list[dict[str, Any]], **policy: str) -> list[Pixels]:
    """The pixels of a batch without the mark."""
    batch = render(context, folder, rows, **{"watermark": "off"} | policy)
    return [
        decode((Path(context.settings.output) / row["key"]).read_bytes())
        for row in images_of(context.engine, batch)
    ]


def apart(left: Pixels, right: Pixels) -> float:
    return float(np.abs(left.astype(int) - right).mean())


def test_a_picture_is_where_image2image_starts(context: WorkerContext, photo: Path, tmp_path: Path) -> None:
    rows = [FOX | {"init_image": "photo.png", "strength": 0.25}, FOX | {"init_image": str(photo)}, FOX]
    batch = render(context, tmp_path, rows)
    near, far, free = images_of(context.engine, batch)
    assert [row["mode"] for row in (near, far, free)] == ["image2image", "image2image", "text2image"]
    assert near["init_image"] == far["init_image"] == str(photo)
    assert near["init_image_sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert (near["strength"], far["strength"]) == (0.25, 0.8), "the card's default where the row is silent"
    assert (free["init_image"], free["init_image_sha256"], free["strength"]) == (None, None, None)
    assert "load_inputs" in near["timings"]
    assert len({row["sha256"] for row in (near, far, free)}) == 3
    body = (Path(context.settings.output) / near["key"]).read_bytes()
    assert b"Denoising strength: 0.25" in body
    lanes = {job["lane_id"] for job in jobs_of(context.engine, batch)}
    assert len(lanes) == 2


@pytest.mark.usefixtures("photo")
def test_company_changes_nothing_in_a_picture(context: WorkerContext, tmp_path: Path) -> None:
    row = FOX | {"init_image": "photo.png", "strength": 0.5}
    (alone,) = drawn(context, tmp_path, [row])
    among = drawn(
        context, tmp_path, [row | {"seed": 8}, row | {"strength": 0.75}, row, row | {"prompt": "b"}]
    )
    assert np.array_equal(among[2], alone)


def test_inpainting_keeps_what_the_mask_keeps(context: WorkerContext, photo: Path, tmp_path: Path) -> None:
    mask = np.zeros((80, 160), np.uint8)
    mask[:, 80:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    row = FOX | {"model": "filler", "init_image": "photo.png", "mask_image": "mask.png"}
    (picture,) = drawn(context, tmp_path, [row])
    with Image.open(photo) as opened:
        middle = np.asarray(opened.crop((40, 0, 120, 80)).resize((64, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(picture[:, :32], middle[:, :32])
    assert apart(picture[:, 32:], middle[:, 32:]) > 10
    (row,) = images_of(context.engine, render(context, tmp_path, [row]))
    assert (row["mode"], row["strength"], row["mask_image"]) == ("inpaint", 1.0, str(tmp_path / "mask.png"))


def test_depth_is_given_or_found_in_the_picture(context: WorkerContext, photo: Path, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)
    Image.fromarray(np.tile(ramp, (64, 1))).save(tmp_path / "ramp.png")
    Image.fromarray(np.tile(ramp[::-1], (64, 1))).save(tmp_path / "back.png")
    row = FOX | {"model": "relief"}
    rows = [
        row | {"depth_image": "ramp.png"},
        row | {"depth_image": "back.png"},
        row | {"init_image": "photo.png"},
    ]
    first, second, _ = drawn(context, tmp_path, rows)
    assert apart(first, second) > 0
    given, _, found = images_of(context.engine, render(context, tmp_path, rows))
    assert (given["mode"], given["depth_image"], given["strength"]) == (
        "depth", str(tmp_path / "ramp.png"), None,
    )  # fmt: skip
    assert (found["mode"], found["depth_image"], found["strength"]) == ("depth", None, 0.8)


def test_an_upscaler_alone_enlarges_pictures_as_they_are(context: WorkerContext, tmp_path: Path) -> None:
    for name, size in (("odd", (75, 66)), ("even", (64, 72)), ("large", (300, 64)), ("small", (70, 50))):
        Image.new("RGB", size, (200, 30, 60)).save(tmp_path / f"{name}.png")
    row = {"prompt": "a red fox", "model": "tiny-x4", "steps": 2, "seed": 7}
    names = ("odd", "even", "large", "small")
    batch = render(context, tmp_path, [row | {"init_image": f"{name}.png"} for name in names], safety="flag")
    odd, even = images_of(context.engine, batch)
    assert (odd["width"], odd["height"], even["width"], even["height"]) == (300, 264, 256, 288)
    assert (odd["generated_width"], odd["generated_height"], odd["upscale"]) == (75, 66, 4)
    assert (odd["mode"], odd["model"], odd["noise_level"]) == ("upscale", "tiny-random-x4", 20)
    assert odd["upscaler_digest"] == odd["model_digest"]
    assert odd["safety_scores"]
    assert len(odd["init_image_sha256"]) == 64
    _, _, large, small = jobs_of(context.engine, batch)
    for job, size in ((large, "300x64"), (small, "70x50")):
        assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "bad-input", 1)
        assert f"init_image has {size} pixels; tiny-random-x4 enlarges 64 to 256 a side" in job["error_text"]


def test_an_upscaler_takes_a_size(context: WorkerContext, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (200, 30, 60)).save(tmp_path / "large.png")
    row = {"prompt": "a fox", "model": "tiny-x4", "steps": 2, "seed": 7, "init_image": "large.png"}
    sized = row | {"width": 96, "height": 64, "noise_level": 5}
    (image,) = images_of(context.engine, render(context, tmp_path, [sized]))
    assert (image["width"], image["height"], image["generated_width"]) == (384, 256, 96)
    assert (image["noise_level"], image["batch_rows"]) == (5, 2)


def test_what_was_drawn_from_a_picture_is_enlarged_too(
    context: WorkerContext, photo: Path, tmp_path: Path
) -> None:
    row = FOX | {"init_image": "photo.png", "upscale": 4}
    (image,) = images_of(context.engine, render(context, tmp_path, [row]))
    assert (image["mode"], image["width"], image["generated_width"]) == ("image2image", 256, 64)
    assert image["upscaler_digest"] not in (None, image["model_digest"])


def test_a_broken_picture_fails_its_own_jobs_alone(
    context: WorkerContext, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:200])
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("L", (10, 90)).save(tmp_path / "narrow.png")
    rows = [FOX | {"init_image": name, "num_images": 2} for name in ("photo.png", "cut.png", "text.png")] + [
        FOX | {"model": "filler", "init_image": "photo.png", "mask_image": "narrow.png"}
    ]
    jobs = jobs_of(context.engine, render(context, tmp_path, rows))
    assert [job["state"] for job in jobs] == ["done"] * 2 + ["failed"] * 5
    for job, words in (
        (jobs[2], f"init_image: {tmp_path / 'cut.png'} is damaged or cut off"),
        (jobs[4], f"init_image: {tmp_path / 'text.png'} is no PNG, JPEG or WebP picture"),
        (jobs[6], "mask_image has 10x90 pixels and init_image 160x80: give both the same proportions"),
    ):
        assert (job["error_kind"], job["attempt"]) == ("bad-input", 1)
        assert words in job["error_text"]


def test_jobs_wait_while_the_folder_of_their_pictures_is_not_mounted(
    context: WorkerContext, photo: Path, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    shutil.copy(photo, share / "photo.png")
    batch = submit(
        context.settings, context.engine, tmp_path, [FOX | {"init_image": str(share / "photo.png")}] * 3
    )
    share.rename(tmp_path / "away")
    for _ in range(3):
        work(context, only_lane(context.engine, batch))
    share.mkdir()  # where nothing is mounted
    work(context, only_lane(context.engine, batch))
    assert {(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)} == {("queued", 0)}
    (worker,) = unhealthy_workers(context.engine)
    assert "init_image: there is no file" in worker.reason
    assert "is the share mounted on this host?" in worker.reason
    share.rmdir()
    (tmp_path / "away").rename(share)
    work(context, only_lane(context.engine, batch))
    assert {(job["state"], job["attempt"]) for job in jobs_of(context.engine, batch)} == {("done", 1)}
    assert unhealthy_workers(context.engine) == []


def test_a_worker_looks_at_the_roots_again(context: WorkerContext, photo: Path, tmp_path: Path) -> None:
    """The worker's own setting counts, and where a symbolic link leads to."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(photo)
    shutil.copy(photo, inside / "own.png")
    narrow = context.settings.model_copy(update={"image_roots": (str(inside),)})
    with worker_context_for(narrow, context.engine, context.model_cache) as strict:
        rows = [FOX | {"init_image": f"inside/{name}.png"} for name in ("link", "own")]
        # What submits is not bound to these roots; what renders is.
        batch = render(strict, tmp_path, rows)
    refused, done = jobs_of(context.engine, batch)
    assert (refused["state"], refused["error_kind"], done["state"]) == ("failed", "bad-input", "done")
    assert "link.png lies outside of the folders of NIGHTMILL_IMAGE_ROOTS" in refused["error_text"]


def test_pictures_are_scored_by_the_clip_that_the_model_names(context: WorkerContext, tmp_path: Path) -> None:
    judged = FOX | {"model": "judged"}
    batch = render(context, tmp_path, [judged, judged | {"prompt": "a blue bird"}, FOX])
    first, second, plain = images_of(context.engine, batch)
    assert first["quality"]["clip_model"] == "judge"
    assert 0 <= first["quality"]["clip_score"] <= 100
    assert "clip_score" in first["timings"]
    assert second["quality"] is not None
    assert plain["quality"] is None


def test_pictures_without_a_prompt_are_enlarged_and_not_scored(
    context: WorkerContext, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), (200, 30, 60)).save(tmp_path / "red.png")
    row = {"model": "enlarger", "steps": 2, "seed": 7, "init_image": "red.png"}
    plain, scored = images_of(context.engine, render(context, tmp_path, [row, row | {"prompt": "red"}]))
    assert (plain["prompt"], plain["width"], plain["quality"]) == ("", 256, None)
    assert scored["quality"]["clip_model"] == "judge"


@pytest.mark.parametrize(
    ("row", "policy"),
    [
        ({"model": "judged"}, {"clip_score": "off"}),
        ({"model": "unscored"}, {"clip_score": "auto"}),
        ({"model": "judged", "prompt": "explicit nudity"}, {"safety": "blacken", "clip_score": "on"}),
    ],
)
def test_no_score_where_none_is_wanted_or_possible_or_the_picture_was_withheld(
    context: WorkerContext, tmp_path: Path, row: dict[str, Any], policy: dict[str, str]
) -> None:
    (image,) = images_of(context.engine, render(context, tmp_path, [FOX | row], **policy))
    assert image["quality"] is None
    assert image["safety_verdict"] == ("blackened" if "safety" in policy else "safe")


@pytest.mark.parametrize("action", ["blacken", "blur"])
def test_files_of_withheld_images_have_the_label_and_their_rows_a_time_that_tells_it(
    context: WorkerContext, tmp_path: Path, action: str
) -> None:
    """The dataset card counts labels by the time, as these rows have no digest of pixels."""
    nude = FOX | {"model": "judged", "prompt": "explicit nudity"}
    (image,) = images_of(context.engine, render(context, tmp_path, [nude], safety=action))
    assert (image["pixels_sha256"], "iscc_code" in image["timings"]) == (None, True)
    assert SourceType.GENERATED.encode() in (Path(context.settings.output) / image["key"]).read_bytes()


def test_jobs_wait_for_a_score_that_is_insisted_on_and_can_not_be_had(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "unscored"}], clip_score="on", max_attempts="1")
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["attempt"]) == ("queued", 0)
    (worker,) = unhealthy_workers(context.engine)
    assert "the model 'absent' is not there" in worker.reason


def test_a_lora_changes_the_picture_by_its_weight(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX, FOX | {"lora": "ink"}, FOX | {"lora": "ink:0.5"}, FOX | {"lora": "ink:0.5+fog:-1"}]
    plain, full, half, both = drawn(context, tmp_path, rows)
    assert apart(plain, full) > apart(plain, half) > 0
    assert apart(half, both) > 0
    batch = render(context, tmp_path, [*rows, FOX | {"lora": "fog:-1 + INK:0.50"}])
    first, one, _, two, again = images_of(context.engine, batch)
    assert (first["lora"], first["lora_digest"], one["lora"]) == ("", None, "ink:1")
    assert two["lora"] == again["lora"] == "fog:-1+ink:0.5"
    assert two["sha256"] == again["sha256"]
    assert one["lora_digest"] == two["lora_digest"].split("+")[1]
    body = (Path(context.settings.output) / two["key"]).read_bytes().decode("latin-1")
    assert "a red fox <lora:fog:-1> <lora:ink:0.5>" in body
    fog, ink = (digest[:12] for digest in two["lora_digest"].split("+"))
    assert f'Lora hashes: "fog: {fog}, ink: {ink}"' in body


def test_a_lora_of_another_shape_keeps_its_own_jobs_alone(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX | {"lora": "strange"}, FOX], max_attempts="1")
    strange, fine = jobs_of(context.engine, batch)
    assert (strange["state"], strange["attempt"], fine["state"]) == ("queued", 0, "done")
    (worker,) = unhealthy_workers(context.engine)
    assert "was it trained on another one?" in worker.reason
