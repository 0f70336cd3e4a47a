"""Whole shifts on the real queue, models and stores, and what they do when a part of them fails."""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine

from jobs import batches
from jobs.errors import UsageError
from jobs.job import Lane
from jobs.settings import Settings
from models import watermark
from models.errors import OutOfMemoryError
from models.picture import Picture
from models.text2image import ImageRequest
from tests.factories import lanes_of, look, states
from tests.s3 import S3Server
from tests.worker.desk import attempts_of, desk_for, files_in, images_of, jobs_of, only_lane, render, submit
from worker.encode import decode
from worker.shift import Desk, groups, work
from worker.studio import Kit, Studio

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}


def bodies(desk: Desk, images: Sequence[dict[str, Any]]) -> list[bytes]:
    return [(Path(desk.settings.output) / row["key"]).read_bytes() for row in images]


def test_a_lane_is_rendered_to_its_end(desk: Desk, tmp_path: Path) -> None:
    rows = [FOX | {"num_images": 3, "label": "fox"}, {"prompt": "a blue bird", "steps": 3, "id": "b1"}]
    batch = submit(desk.settings, desk.engine, tmp_path, rows)
    assert work(desk, only_lane(desk.engine, batch)) == 4
    assert states(desk.engine) == {"done": 4}
    images = images_of(desk.engine, batch)
    assert [(row["ordinal"], row["index"]) for row in images] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    for row, body in zip(images, bodies(desk, images), strict=True):
        digest = hashlib.sha256(body).hexdigest()
        assert row["sha256"] == digest
        assert row["bytes"] == len(body)
        name = f"{row['ordinal']:09d}-{row['index']:05d}.{digest[:12]}.png"
        assert row["key"] == f"{batch.name}/images/000000/{name}"
        assert decode(body).shape == (row["height"], row["width"], 3) == (64, 64, 3)
    assert len(files_in(Path(desk.settings.output))) == 4
    assert [row["meta"] for row in images] == [{"label": "fox"}] * 3 + [{}]
    assert work(desk, only_lane(desk.engine, batch)) == 0


def test_an_image_row_holds_what_made_it(desk: Desk, tmp_path: Path) -> None:
    batch = render(desk, tmp_path, [FOX | {"prompt": "a red fox " * 40, "sampler": "euler"}])
    (row,) = images_of(desk.engine, batch)
    assert (row["model"], row["model_revision"], len(row["model_digest"])) == ("tiny-random", "random-1", 64)
    assert (row["steps"], row["sampler"], int(row["seed"]), row["batch_rows"]) == (2, "euler", 7, 4)
    assert row["prompt_truncated"]
    assert row["prompt_tokens"] > 77
    assert {"python", "torch", "diffusers", "transformers"} <= set(row["versions"])
    assert row["timings"].keys() >= {
        "prompt",
        "generate",
        "safety",
        "watermark",
        "encode",
        "readback",
        "upload",
    }
    assert (row["worker"], row["attempt"], row["watermark"], row["watermark_bit_accuracy"]) == (
        "tester", 1, "NMIL", 1,
    )  # fmt: skip
    assert row["device"]


def test_ordinals_beyond_a_thousand_go_to_the_next_shard(desk: Desk, tmp_path: Path) -> None:
    rows = [{"prompt": ""}] * 1000 + [FOX]  # empty prompts are rejected, and count as rows
    batch = render(desk, tmp_path, rows)
    (image,) = images_of(desk.engine, batch)
    assert image["key"].startswith(f"{batch.name}/images/000001/000001000-00000.")


@pytest.mark.parametrize(("format", "extension"), [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
def test_every_format_carries_the_mark(desk: Desk, tmp_path: Path, format: str, extension: str) -> None:
    batch = render(desk, tmp_path, [FOX | {"width": 128, "height": 96}], format=format)
    images = images_of(desk.engine, batch)
    (body,) = bodies(desk, images)
    assert images[0]["key"].endswith(f".{extension}")
    assert (images[0]["format"], images[0]["watermark_bit_accuracy"]) == (format, 1)
    assert watermark.bit_accuracy(decode(body), b"NMIL") == 1
    assert Image.open(io.BytesIO(body)).size == (128, 96)


def test_parameters_are_in_the_file_unless_switched_off(desk: Desk, tmp_path: Path) -> None:
    for wanted in ("true", "false"):
        batch = render(desk, tmp_path, [FOX | {"negative_prompt": "blurry"}], parameters=wanted)
        (body,) = bodies(desk, images_of(desk.engine, batch))
        text = Image.open(io.BytesIO(body)).info.get("parameters")
        if wanted == "false":
            assert text is None
            assert b"a red fox" not in body
        else:
            assert text.startswith(
                "a red fox\nNegative prompt: blurry\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, "
            )
            assert "Seed: 7, Size: 64x64" in text


def test_a_mark_that_does_not_fit(desk: Desk, tmp_path: Path) -> None:
    small = [FOX | {"model": "flagged", "width": 32, "height": 32}]
    required = render(desk, tmp_path, small, safety="flag")
    (job,) = jobs_of(desk.engine, required)
    assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "watermark", 1)
    assert "hold a mark of 1 to 16 bits, not 32" in job["error_text"]
    assert images_of(desk.engine, required) == []
    best = render(desk, tmp_path, small, safety="flag", watermark="best-effort")
    (image,) = images_of(desk.engine, best)
    assert (image["watermark"], image["watermark_bit_accuracy"]) == (None, None)


def test_a_mark_that_does_not_survive_the_format(desk: Desk, tmp_path: Path) -> None:
    hard = {"format": "jpeg", "quality": "1"}
    required = render(desk, tmp_path, [FOX], **hard)
    (job,) = jobs_of(desk.engine, required)
    assert (job["state"], job["error_kind"]) == ("failed", "watermark")
    assert "watermark=best-effort lets such images pass" in job["error_text"]
    best = render(desk, tmp_path, [FOX], watermark="best-effort", **hard)
    (image,) = images_of(desk.engine, best)
    assert image["watermark"] == "NMIL"
    assert image["watermark_bit_accuracy"] < 1


@pytest.mark.parametrize(("model", "kind"), [("gives-nan", "nan"), ("gives-black", "black")])
def test_broken_pictures_are_tried_again_then_failed(
    desk: Desk, tmp_path: Path, model: str, kind: str
) -> None:
    batch = render(desk, tmp_path, [FOX | {"model": model, "num_images": 2}], safety="flag")
    assert states(desk.engine) == {"failed": 2}
    assert {(job["error_kind"], job["attempt"]) for job in jobs_of(desk.engine, batch)} == {(kind, 3)}
    outcomes = [row["outcome"] for row in attempts_of(desk.engine, batch)]
    assert outcomes == ["retried"] * 4 + ["failed"] * 2
    assert images_of(desk.engine, batch) == []
    assert not Path(desk.settings.output).exists()


def test_neighbours_and_sizes_of_claims_change_no_pixel(desk: Desk, tmp_path: Path) -> None:
    rows = [FOX | {"seed": number, "prompt": f"fox number {number}"} for number in range(7)]
    first = render(desk, tmp_path, rows)
    by_one = replace(desk, settings=desk.settings.model_copy(update={"claim": 1}))
    second = render(by_one, tmp_path, rows[::-1], batch_seed="99")
    third = render(desk, tmp_path, [*rows[2:4], FOX | {"num_images": 3}, *rows[4:], *rows[:2]])
    digests = {row["prompt"]: row["sha256"] for row in images_of(desk.engine, first)}
    assert len(set(digests.values())) == 7
    for batch in (second, third):
        again = {row["prompt"]: row["sha256"] for row in images_of(desk.engine, batch)}
        assert {prompt: again[prompt] for prompt in digests} == digests


def test_groups_are_alike_and_no_larger_than_the_device_takes(desk: Desk, tmp_path: Path) -> None:
    rows = [FOX | {"steps": 2 + number % 2, "num_images": 3} for number in range(4)]
    lane = only_lane(desk.engine, submit(desk.settings, desk.engine, tmp_path, rows))
    from jobs import queue

    jobs = queue.claim(desk.engine, lane, limit=100, worker="w", lease_s=60)
    made = groups(jobs, 4)
    assert [len(group) for group in made] == [4, 2, 4, 2]
    assert all(len({job.steps for job in group}) == 1 for group in made)
    assert sorted(job.id for group in made for job in group) == [job.id for job in jobs]


@dataclass
class Narrow:
    """A model on a device whose memory takes `limit` images at once; fault injection around the real one."""

    model: Any
    limit: int
    asked: list[int]

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None]
    ) -> list[Picture]:
        self.asked.append(rows)
        if rows > self.limit:
            raise OutOfMemoryError(f"no memory left for {rows} images")
        pictures: list[Picture] = self.model.render(requests, rows=rows, on_step=on_step)
        return pictures


class NarrowStudio(Studio):
    """A studio whose device has little memory."""

    def __init__(self, studio: Studio, limit: int) -> None:
        super().__init__(studio.settings, 0)
        self.real = studio
        self.limit = limit
        self.asked: list[int] = []

    def kit(self, lane: Lane) -> Kit:
        kit = self.real.kit(lane)
        return replace(kit, text2image=Narrow(kit.text2image, self.limit, self.asked))  # type: ignore[arg-type]


def test_out_of_memory_halves_the_batch(desk: Desk, tmp_path: Path) -> None:
    studio = NarrowStudio(desk.studio, limit=1)
    batch = render(replace(desk, studio=studio), tmp_path, [FOX | {"num_images": 6}])
    assert studio.asked[:3] == [4, 2, 1]
    assert set(studio.asked[3:]) == {1}
    assert [row["batch_rows"] for row in images_of(desk.engine, batch)] == [1] * 6
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {1}


def test_out_of_memory_for_a_single_image_fails_the_job(desk: Desk, tmp_path: Path) -> None:
    studio = NarrowStudio(desk.studio, limit=0)
    batch = render(replace(desk, studio=studio), tmp_path, [FOX], max_attempts="2")
    (job,) = jobs_of(desk.engine, batch)
    assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "oom", 2)


def test_a_bucket_that_does_not_exist(desk: Desk, tmp_path: Path, s3: S3Server) -> None:
    reaching = desk.settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"})
    batch = render(
        replace(desk, settings=reaching), tmp_path, [FOX], output="s3://no-such-bucket/x", max_attempts="2"
    )
    (job,) = jobs_of(desk.engine, batch)
    assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "io", 2)
    assert "no-such-bucket" in job["error_text"]
    assert [row["outcome"] for row in attempts_of(desk.engine, batch)] == ["retried", "failed"]
    assert images_of(desk.engine, batch) == []


def test_an_output_that_cannot_be_opened_fails_the_jobs(desk: Desk, tmp_path: Path) -> None:
    batch = render(desk, tmp_path, [FOX], output="ftp://somewhere/x", max_attempts="1")
    (job,) = jobs_of(desk.engine, batch)
    assert (job["state"], job["error_kind"]) == ("failed", "bad-input")
    assert "ftp://somewhere/x" in job["error_text"]


class BrokenStudio(Studio):
    """A studio that fails as no library says that it would."""

    def kit(self, lane: Lane) -> Kit:
        raise RuntimeError(f"{lane.model}: CUDA error: an illegal memory access was encountered")


def test_a_model_that_cannot_be_loaded_for_any_reason(desk: Desk, tmp_path: Path) -> None:
    studio = BrokenStudio(desk.settings, 0)
    batch = render(replace(desk, studio=studio), tmp_path, [FOX], max_attempts="2")
    (job,) = jobs_of(desk.engine, batch)
    assert (job["state"], job["error_kind"]) == ("failed", "exception")
    assert "illegal memory access" in job["error_text"]


class LosingStudio(Studio):
    """A studio in whose shift something goes wrong that no stage answers for."""

    def rows(self, lane: Lane) -> int:
        raise UsageError(f"who would have thought that of {lane.model}")


def test_a_shift_that_breaks_keeps_no_job(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX] * 3)
    before = threading.active_count()
    with pytest.raises(UsageError):
        work(replace(desk, studio=LosingStudio(desk.settings, 0)), only_lane(desk.engine, batch))
    assert states(desk.engine) == {"queued": 3}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {0}
    assert threading.active_count() == before


class Ringing:
    """A model at whose n-th step something happens."""

    def __init__(self, model: Any, step: int, happen: Callable[[], object]) -> None:
        self.model = model
        self.step = step
        self.happen = happen

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None]
    ) -> list[Picture]:
        def stepped(number: int) -> None:
            if number == self.step:
                self.happen()
            on_step(number)

        pictures: list[Picture] = self.model.render(requests, rows=rows, on_step=stepped)
        return pictures


class RingingStudio(Studio):
    def __init__(self, studio: Studio, step: int, happen: Callable[[], object]) -> None:
        super().__init__(studio.settings, 0)
        self.real, self.step, self.happen = studio, step, happen

    def kit(self, lane: Lane) -> Kit:
        kit = self.real.kit(lane)
        ringing: Any = Ringing(kit.text2image, self.step, self.happen)
        return replace(kit, text2image=ringing)


def test_stopping_between_two_steps_gives_all_jobs_back(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"steps": 50, "num_images": 9}])
    stopped = replace(desk, studio=RingingStudio(desk.studio, 3, desk.stopping.set))
    assert work(stopped, only_lane(desk.engine, batch)) == 9
    assert states(desk.engine) == {"queued": 9}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {0}
    desk.stopping.clear()
    assert work(desk, only_lane(desk.engine, batch)) == 9
    assert states(desk.engine) == {"done": 9}


def test_a_cancelled_batch_is_dropped_between_two_steps(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"steps": 900}])
    cancelling = RingingStudio(desk.studio, 3, lambda: batches.cancel(desk.engine, batch.id))
    work(replace(desk, studio=cancelling), only_lane(desk.engine, batch))
    assert states(desk.engine) == {"cancelled": 1}
    assert images_of(desk.engine, batch) == []
    assert not Path(desk.settings.output).exists()


def test_a_paused_batch_is_left_after_the_device_batch(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"num_images": 9}])
    pausing = RingingStudio(desk.studio, 1, lambda: batches.pause(desk.engine, batch.id))
    work(replace(desk, studio=pausing), only_lane(desk.engine, batch))
    assert states(desk.engine) == {"done": 4, "queued": 5}
    batches.resume(desk.engine, batch.id)
    work(desk, only_lane(desk.engine, batch))
    assert states(desk.engine) == {"done": 9}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {1}


def test_a_stop_during_delivery_waits_no_longer_than_it_may(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    monkeypatch.setattr("jobs.folder_store.FolderStore.put", lambda *_, **__: opened.wait(30))
    hurried = replace(desk, settings=desk.settings.model_copy(update={"drain_s": 0.5}))
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"num_images": 2}])
    threading.Timer(2, desk.stopping.set).start()
    work(hurried, only_lane(desk.engine, batch))
    opened.set()
    assert desk.stopping.is_set()
    assert states(desk.engine) == {"queued": 2}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {0}


def test_a_lane_of_each_shape_and_an_upscaled_one(desk: Desk, tmp_path: Path) -> None:
    rows = [FOX, FOX | {"width": 96}, FOX | {"upscale": 4, "noise_level": 5}]
    batch = render(desk, tmp_path, rows)
    assert len(lanes_of(desk.engine, batch)) == 3
    sizes = [(row["width"], row["height"], row["upscale"]) for row in images_of(desk.engine, batch)]
    assert sizes == [(64, 64, 0), (96, 64, 0), (256, 256, 4)]
    upscaled = images_of(desk.engine, batch)[2]
    assert (upscaled["generated_width"], upscaled["generated_height"]) == (64, 64)
    assert len(upscaled["upscaler_digest"]) == 64
    assert upscaled["watermark_bit_accuracy"] == 1
    assert "upscale" in upscaled["timings"]
    (body,) = bodies(desk, [upscaled])
    assert "Hires upscaler: tiny-random-x4" in Image.open(io.BytesIO(body)).info["parameters"]


def test_shifts_end_with_their_time(desk: Desk, tmp_path: Path) -> None:
    short = replace(desk, settings=desk.settings.model_copy(update={"shift_s": 1e-6, "claim": 2}))
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"num_images": 3}])
    assert work(short, only_lane(desk.engine, batch)) == 0
    assert states(desk.engine) == {"queued": 3}


def test_two_desks_at_one_lane_share_it(
    desk: Desk, settings: Settings, engine: Engine, studio: Studio, tmp_path: Path
) -> None:
    batch = submit(desk.settings, engine, tmp_path, [FOX | {"num_images": 8}])
    lane = only_lane(engine, batch)
    few = desk.settings.model_copy(update={"claim": 2})
    lock = threading.Lock()

    class OneAtATime(RingingStudio):
        def kit(self, lane: Lane) -> Kit:
            with lock:
                return super().kit(lane)

    taken: list[int] = []
    with desk_for(few, engine, studio) as other:
        desks = [replace(one, settings=few, studio=OneAtATime(studio, 0, int)) for one in (desk, other)]
        threads = [threading.Thread(target=lambda one=one: taken.append(work(one, lane))) for one in desks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(taken) == 8
    assert {job["attempt"] for job in jobs_of(engine, batch)} == {1}
    assert len(images_of(engine, batch)) == 8
    assert json.dumps(look(engine, "SELECT * FROM attempts")) == "[]"
    assert np.unique([row["sha256"] for row in images_of(engine, batch)]).size == 8
