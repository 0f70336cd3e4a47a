"""Lane sessions on a real queue, with real models and stores."""

import hashlib
import io
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine

from bench.watermark_robustness.picture_changes import ALIGNED
from jobs.batches import actions
from jobs.batches.rename import rename
from jobs.queue import transitions
from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from jobs.states import WatermarkMethod
from models.optional_packages import EXTRAS
from models.watermark import codec as watermark
from models.watermark.tiled.read import read
from tests.factories import change, lanes_of, look, states
from tests.worker.contexts import files_in, images_of, jobs_of, only_lane, render, submit, worker_context_for
from tests.worker.faults import RingingModelCache
from worker.imaging.encode import decode
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}


def bodies(context: WorkerContext, images: Sequence[dict[str, Any]]) -> list[bytes]:
    return [(Path(context.settings.output) / row["key"]).read_bytes() for row in images]


def test_a_lane_is_rendered_to_its_end(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX | {"num_images": 3, "label": "fox"}, {"prompt": "a blue bird", "steps": 3, "id": "b1"}]
    batch = submit(context.settings, context.engine, tmp_path, rows)
    assert work(context, only_lane(context.engine, batch)) == 4
    assert states(context.engine) == {"done": 4}
    images = images_of(context.engine, batch)
    assert [(row["ordinal"], row["index"]) for row in images] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    for row, body in zip(images, bodies(context, images), strict=True):
        digest = hashlib.sha256(body).hexdigest()
        assert row["sha256"] == digest
        assert row["bytes"] == len(body)
        name = f"{row['ordinal']:09d}-{row['index']:05d}.{digest[:12]}.png"
        assert row["key"] == f"{batch.name}/images/000000/{name}"
        assert decode(body).shape == (row["height"], row["width"], 3) == (64, 64, 3)
    assert len(files_in(Path(context.settings.output))) == 4
    assert [row["meta"] for row in images] == [{"label": "fox"}] * 3 + [{}]
    assert work(context, only_lane(context.engine, batch)) == 0


def test_deep_cache_is_for_those_who_ask_and_their_rows_say_so(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX | {"steps": 4, "seed": seed} for seed in range(3)]
    exact = images_of(context.engine, render(context, tmp_path, rows))
    cached = images_of(context.engine, render(context, tmp_path, rows, deep_cache="2"))
    assert [row["versions"].get("deep_cache") for row in exact + cached] == [None] * 3 + ["2"] * 3
    assert not {row["sha256"] for row in exact} & {row["sha256"] for row in cached}


def test_weights_in_fewer_bits_are_for_those_who_ask_and_their_rows_say_so(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX | {"seed": seed} for seed in range(3)]
    wanted = [None, "full", "fp8"]
    silent, full, held = (
        images_of(
            context.engine, render(context, tmp_path, rows, **({"weights": weights} if weights else {}))
        )
        for weights in wanted
    )
    assert [row["versions"].get("weights") for row in silent + full + held] == [None] * 6 + ["fp8"] * 3
    assert [row["sha256"] for row in silent] == [row["sha256"] for row in full]
    assert not {row["sha256"] for row in full} & {row["sha256"] for row in held}


def test_small_decoders_are_for_those_who_ask_and_their_rows_say_so(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX | {"seed": seed} for seed in range(3)]
    full = images_of(context.engine, render(context, tmp_path, rows))
    tiny = images_of(context.engine, render(context, tmp_path, rows, decoder="tiny"))
    assert [row["versions"].get("decoder") for row in full + tiny] == [None] * 3 + ["tiny"] * 3
    assert {len(row["versions"]["decoder_digest"]) for row in tiny} == {64}
    assert not {row["sha256"] for row in full} & {row["sha256"] for row in tiny}


def test_without_the_decoders_files_the_worker_says_how_to_get_them(
    context: WorkerContext, tmp_path: Path
) -> None:
    (job,) = jobs_of(
        context.engine, render(context, tmp_path, [FOX | {"model": "undecoded"}], decoder="tiny")
    )
    assert (job["state"], job["attempt"]) == ("queued", 0)
    (worker,) = unhealthy_workers(context.engine)
    assert "the model 'taesd' is not there" in worker.reason
    assert worker.reason.endswith("fetch it with: nightmill models pull taesd")


def test_jobs_wait_for_a_worker_that_holds_such_weights(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "packed", ("absent_here",))
    (job,) = jobs_of(context.engine, render(context, tmp_path, [FOX], weights="int8"))
    assert (job["state"], job["attempt"]) == ("queued", 0)
    (worker,) = unhealthy_workers(context.engine)
    assert worker.reason.endswith("weights 'int8' need bitsandbytes: pip install 'nightmill[packed]'")


def test_an_image_row_holds_what_made_it(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX | {"prompt": "a red fox " * 40, "sampler": "euler"}])
    (row,) = images_of(context.engine, batch)
    assert (row["model"], row["model_revision"], len(row["model_digest"])) == ("tiny-random", "random-1", 64)
    assert (row["steps"], row["sampler"], int(row["seed"]), row["batch_rows"]) == (2, "euler", 7, 4)
    assert row["prompt_truncated"]
    assert row["prompt_tokens"] > 77
    assert {"python", "torch", "diffusers", "transformers"} <= set(row["versions"])
    assert len(row["versions"]["safety_checker_digest"]) == 64
    assert row["timings"].keys() >= {
        "prompt_filter",
        "generate",
        "safety",
        "perceptual_hash",
        "watermark",
        "encode",
        "verify_watermark",
        "upload",
    }
    assert (row["worker"], row["attempt"], row["watermark"], row["watermark_bit_accuracy"]) == (
        "tester", 1, "NMIL", 1,
    )  # fmt: skip
    assert (row["watermark_method"], row["watermark_strength"]) == ("dwtDctSvd", None)
    assert row["device"]


def test_images_are_hashed_before_they_are_marked_unless_withheld(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX, FOX | {"prompt": "a blue bird", "seed": 8}, FOX | {"prompt": "a naked man"}]
    marked = images_of(context.engine, render(context, tmp_path, rows, safety="blacken"))
    plain = images_of(context.engine, render(context, tmp_path, rows[:1], watermark="off"))
    assert [row["phash"] is None for row in marked] == [False, False, True]
    assert plain[0]["watermark"] is None
    assert marked[0]["phash"] == plain[0]["phash"] != marked[1]["phash"]


def test_ordinals_beyond_a_thousand_go_to_the_next_shard(context: WorkerContext, tmp_path: Path) -> None:
    rows = [{"prompt": ""}] * 1000 + [FOX]  # empty prompts are rejected, and count as rows
    batch = render(context, tmp_path, rows)
    (image,) = images_of(context.engine, batch)
    assert image["key"].startswith(f"{batch.name}/images/000001/000001000-00000.")


@pytest.mark.parametrize(("format", "extension"), [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
def test_every_format_carries_the_mark(
    context: WorkerContext, tmp_path: Path, format: str, extension: str
) -> None:
    batch = render(context, tmp_path, [FOX | {"width": 128, "height": 96}], format=format)
    images = images_of(context.engine, batch)
    (body,) = bodies(context, images)
    assert images[0]["key"].endswith(f".{extension}")
    assert (images[0]["format"], images[0]["watermark_bit_accuracy"]) == (format, 1)
    assert watermark.bit_accuracy(decode(body), b"NMIL") == 1
    assert Image.open(io.BytesIO(body)).size == (128, 96)


def test_parameters_are_in_the_file_unless_switched_off(context: WorkerContext, tmp_path: Path) -> None:
    for wanted in ("true", "false"):
        batch = render(context, tmp_path, [FOX | {"negative_prompt": "blurry"}], parameters=wanted)
        (body,) = bodies(context, images_of(context.engine, batch))
        text = Image.open(io.BytesIO(body)).info.get("parameters")
        if wanted == "false":
            assert text is None
            assert b"a red fox" not in body
        else:
            assert text.startswith(
                "a red fox\nNegative prompt: blurry\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, "
            )
            assert "Seed: 7, Size: 64x64" in text


def test_a_mark_that_does_not_fit(context: WorkerContext, tmp_path: Path) -> None:
    small = [FOX | {"model": "flagged", "width": 32, "height": 32}]
    required = render(context, tmp_path, small, safety="flag")
    (job,) = jobs_of(context.engine, required)
    assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "watermark", 1)
    assert "hold a mark of 1 to 16 bits, not 32" in job["error_text"]
    assert images_of(context.engine, required) == []
    best = render(context, tmp_path, small, safety="flag", watermark="best-effort")
    (image,) = images_of(context.engine, best)
    assert (image["watermark"], image["watermark_method"], image["watermark_bit_accuracy"]) == (
        None,
        None,
        None,
    )


def test_a_mark_that_does_not_survive_the_format(context: WorkerContext, tmp_path: Path) -> None:
    hard = {"format": "jpeg", "quality": "1"}
    required = render(context, tmp_path, [FOX], **hard)
    (job,) = jobs_of(context.engine, required)
    assert (job["state"], job["error_kind"]) == ("failed", "watermark")
    assert "watermark=best-effort lets such images pass" in job["error_text"]
    best = render(context, tmp_path, [FOX], watermark="best-effort", **hard)
    (image,) = images_of(context.engine, best)
    assert image["watermark"] == "NMIL"
    assert image["watermark_bit_accuracy"] < 1


def test_the_row_tells_whether_the_mark_is_weak(context: WorkerContext, tmp_path: Path) -> None:
    changes = {"watermark_method": WatermarkMethod.TILED}
    context = replace(context, settings=context.settings.model_copy(update=changes))
    large = FOX | {"width": 256, "height": 256}
    (tiled,) = images_of(context.engine, render(context, tmp_path, [large]))
    (body,) = bodies(context, [tiled])
    again = read(ALIGNED["jpeg_75"](decode(body)), context.settings.mark_key.secret)
    assert (tiled["watermark_method"], tiled["watermark_bit_accuracy"]) == ("tiled", 1)
    assert tiled["watermark_strength"] == ("strong" if again.is_intact else "weak")


def test_the_other_method_needs_three_quarters_of_the_bits(context: WorkerContext, tmp_path: Path) -> None:
    changes = {"watermark_method": WatermarkMethod.DWT_DCT, "watermark": "SDV2"}
    context = replace(context, settings=context.settings.model_copy(update=changes))
    batch = render(context, tmp_path, [FOX | {"width": 128, "height": 128, "num_images": 3}])
    images = images_of(context.engine, batch)
    assert len(images) == 3
    for image, body in zip(images, bodies(context, images), strict=True):
        accuracy = watermark.bit_accuracy(decode(body), b"SDV2", watermark.Method.DWT_DCT)
        assert (image["watermark"], image["watermark_method"]) == ("SDV2", "dwtDct")
        assert image["watermark_bit_accuracy"] == accuracy >= 0.75
    lossy = render(context, tmp_path, [FOX], format="jpeg", quality="50")
    (job,) = jobs_of(context.engine, lossy)
    assert (job["state"], job["error_kind"]) == ("failed", "watermark")
    assert "of its bits, 75% are needed" in job["error_text"]


def test_neighbours_and_sizes_of_claims_change_no_pixel(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX | {"seed": number, "prompt": f"fox number {number}"} for number in range(7)]
    first = render(context, tmp_path, rows)
    by_one = replace(context, settings=context.settings.model_copy(update={"claim": 1}))
    second = render(by_one, tmp_path, rows[::-1], batch_seed="99")
    third = render(context, tmp_path, [*rows[2:4], FOX | {"num_images": 3}, *rows[4:], *rows[:2]])
    digests = {row["prompt"]: row["sha256"] for row in images_of(context.engine, first)}
    assert len(set(digests.values())) == 7
    for batch in (second, third):
        again = {row["prompt"]: row["sha256"] for row in images_of(context.engine, batch)}
        assert {prompt: again[prompt] for prompt in digests} == digests


def test_steps_samplers_and_guidance_share_the_model_and_change_no_pixel(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [
        FOX
        | {"prompt": f"fox {number}", "steps": 2 + number % 3, "sampler": sampler, "guidance_scale": scale}
        for number, (sampler, scale) in enumerate(product(["ddim", "euler_a", "heun"], [1, 4, 7.5]))
    ]
    together = images_of(context.engine, render(context, tmp_path, rows))
    for row, image in zip(rows, together, strict=True):
        (alone,) = images_of(context.engine, render(context, tmp_path, [row]))
        assert (alone["prompt"], alone["sha256"]) == (image["prompt"], image["sha256"])


def test_claims_follow_one_another_without_a_gap(context: WorkerContext, tmp_path: Path) -> None:
    """Nine images of three steps, four at once, take nine steps in claims of three too."""
    steps: list[int] = []
    counting = RingingModelCache(context.model_cache, -1, int, steps)
    by_three = replace(
        context, model_cache=counting, settings=context.settings.model_copy(update={"claim": 3})
    )
    render(by_three, tmp_path, [FOX | {"steps": 3, "num_images": 9}])
    assert steps == list(range(9))
    assert states(context.engine) == {"done": 9}


def test_what_came_back_is_drawn_without_others(context: WorkerContext, tmp_path: Path) -> None:
    """A job that is claimed again begins when those before it are done, and none joins it."""
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"num_images": 4}])
    change(
        context.engine,
        "UPDATE jobs SET not_before = now(), error_kind = 'crash', attempt = 2 WHERE index > 1",
    )
    steps: list[int] = []
    work(
        replace(context, model_cache=RingingModelCache(context.model_cache, -1, int, steps)),
        only_lane(context.engine, batch),
    )
    assert steps == [0, 1, 0, 1, 0, 1]
    assert states(context.engine) == {"done": 4}


def test_a_lane_of_each_shape_and_an_upscaled_one(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX, FOX | {"width": 96}, FOX | {"upscale": 4, "noise_level": 5}]
    batch = render(context, tmp_path, rows)
    assert len(lanes_of(context.engine, batch)) == 3
    sizes = [(row["width"], row["height"], row["upscale"]) for row in images_of(context.engine, batch)]
    assert sizes == [(64, 64, 0), (96, 64, 0), (256, 256, 4)]
    upscaled = images_of(context.engine, batch)[2]
    assert (upscaled["generated_width"], upscaled["generated_height"]) == (64, 64)
    assert len(upscaled["upscaler_digest"]) == 64
    assert upscaled["watermark_bit_accuracy"] == 1
    assert "upscale" in upscaled["timings"]
    (body,) = bodies(context, [upscaled])
    assert "Hires upscaler: tiny-random-x4" in Image.open(io.BytesIO(body)).info["parameters"]


def test_shifts_end_with_their_time(context: WorkerContext, tmp_path: Path) -> None:
    short = replace(context, settings=context.settings.model_copy(update={"time_slice_s": 1e-6, "claim": 2}))
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"num_images": 3}])
    assert work(short, only_lane(context.engine, batch)) == 2
    assert states(context.engine) == {"done": 2, "queued": 1}


def test_two_workers_at_one_lane_share_it(
    context: WorkerContext, settings: Settings, engine: Engine, model_cache: ModelCache, tmp_path: Path
) -> None:
    batch = submit(context.settings, engine, tmp_path, [FOX | {"num_images": 8}])
    lane = only_lane(engine, batch)
    few = context.settings.model_copy(update={"claim": 2})
    second = ModelCache(few, 0)
    shape = transitions.open_lane(engine, lane)
    assert shape is not None
    second.lane_models(shape)
    model_cache.lane_models(shape)
    taken: list[int] = []
    with worker_context_for(few, engine, second) as other:
        contexts = [replace(one, settings=few) for one in (context, other)]
        threads = [threading.Thread(target=lambda one=one: taken.append(work(one, lane))) for one in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(taken) == 8
    assert {job["attempt"] for job in jobs_of(engine, batch)} == {1}
    assert len(images_of(engine, batch)) == 8
    assert json.dumps(look(engine, "SELECT * FROM attempts")) == "[]"
    assert np.unique([row["sha256"] for row in images_of(engine, batch)]).size == 8


def test_what_saves_memory_and_changes_pixels_is_told(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    little = context.settings.model_copy(update={"weights": "int8", "low_memory": "on"})
    with worker_context_for(little, engine, ModelCache(little, 0)) as other:
        (packed,) = images_of(engine, render(other, tmp_path, [{"prompt": "a fox", "steps": 2}]))
    (whole,) = images_of(engine, render(context, tmp_path, [{"prompt": "a fox", "steps": 2}]))
    assert (packed["versions"]["weights"], packed["versions"]["vae"]) == ("int8", "tiled")
    assert {"weights", "bitsandbytes", "vae"} & set(whole["versions"]) == set()
    assert packed["sha256"] != whole["sha256"]


def test_images_of_a_renamed_batch_go_to_its_folder(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [{"prompt": "a red fox", "steps": 2}])
    (image,) = images_of(engine, batch)
    rename(engine, actions.status(engine, batch.name), "renamed")
    taken = [(image["id"], image["key"])]
    transitions.retract(engine, batch.id, taken, "again", is_archived=False, keeps_file=False)
    actions.retry_retracted(engine, batch.id)
    while sum(work(context, lane) for lane in lanes_of(engine, batch)):
        pass
    (again,) = images_of(engine, batch)
    assert again["id"] > image["id"]
    assert again["key"] == image["key"]
