"""`nightmill show`, and how `nightmill reproduce` compares pictures."""

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from bench.image_files import grainy
from console.reproduction.compare_pictures import compare, compressed_as, made_otherwise, marked_as
from console.reproduction.row_as_manifest import manifest_row, set_options
from console.reproduction.was_upscaled_to_requested_size import was_upscaled_to_requested_size
from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import archive
from jobs.errors import UsageError
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.parse_set_options import parse_policy
from jobs.queue import transitions
from jobs.settings import load_settings
from jobs.states import ImageFormat, WatermarkMethod
from tests.console.conftest import Typed
from tests.factories import change, image, lanes_of, look, make_batch, take
from tests.worker.contexts import stage_context
from tests.worker.test_bisect import items
from worker.imaging.encode import decode, encode
from worker.stages.watermark import Watermark

COMPARED = (
    "model_revision",
    "model_digest",
    "upscaler_digest",
    "lora_digest",
    "init_image_sha256",
    "device",
)


def test_a_row_is_shown_by_its_number(typed: Typed, engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "a red fox", "seed": 2**63 + 7}], name="foxes")
    (lane,) = lanes_of(engine, batch)
    (job,) = take(engine, lane)
    transitions.complete(engine, [image(job)])
    told = typed("show", "1", "--json")
    assert told.code == 0, told.err
    assert (told.json["image_id"], told.json["batch"], told.json["seed"]) == (1, "foxes", 2**63 + 7)
    shown = [line.split() for line in typed("show", "1").out.splitlines()]
    assert ["prompt", "a", "red", "fox"] in shown
    assert ["versions.torch", "2"] in shown
    assert typed("show", "987654").err == "error: there is no image 987654\n"
    for given in ("absent.png", "99999999999999999999"):
        told = typed("show", given)
        assert (told.code, "Traceback" in told.err) == (2, False), told.err


def test_it_is_told_whether_an_enlarged_image_was_asked_for_at_a_size(engine: Engine) -> None:
    names = ("own", "set")
    for name, width, height in zip(names, (0, 64), (0, 72), strict=True):
        batch = make_batch(engine, name=name)
        change(
            engine,
            "UPDATE lanes SET mode = 'upscale', upscale = 4, width = :width, height = :height WHERE batch_id = :id",
            **{"width": width, "height": height, "id": batch.id},
        )
        (lane,) = lanes_of(engine, batch)
        transitions.complete(engine, [image(job, width=256, height=288) for job in take(engine, lane)])
    rows = look(engine, "SELECT id FROM images ORDER BY id")
    found = [was_upscaled_to_requested_size(engine, row["id"]) for row in rows]
    for name in names:
        archive(engine, actions.status(engine, name))
    assert found == [was_upscaled_to_requested_size(engine, row["id"]) for row in rows] == [False, True]


@pytest.mark.parametrize(("format", "quality"), [("png", 95), ("jpeg", 60), ("webp", 60), ("webp", 100)])
def test_pictures_are_compressed_as_workers_do(format: str, quality: int) -> None:
    pixels = grainy(96)
    body = encode(pixels, ImageFormat(format), quality=quality, parameters="some").body
    assert compare(decode(body), compressed_as(pixels, format, quality)) == {
        "same_pixels": True,
        "most_levels": 0,
        "share": 0.0,
    }


@pytest.mark.parametrize("key", [None, "7:a secret of the test"])
@pytest.mark.parametrize("method", [None, *WatermarkMethod])
def test_the_mark_of_the_row_is_embedded_as_workers_do(
    method: WatermarkMethod | None, key: str | None
) -> None:
    settings = load_settings(watermark_method=method, watermark_key=SecretStr(key) if key else None)
    item = items(1)[0]
    pixels = grainy(512)
    (marked,) = Watermark(stage_context(settings)).run([item.__class__(item.job, pixels=pixels)])
    record = {"watermark": marked.watermark, "watermark_method": marked.watermark_method}
    keys = {0: b"nightmill"} | ({7: b"a secret of the test"} if key else {})
    assert np.array_equal(marked_as(pixels, record, keys), marked.image)
    if key and marked.watermark_method is WatermarkMethod.TILED:
        with pytest.raises(UsageError, match="marked with key 7, which isn't here"):
            marked_as(pixels, record, {0: b"nightmill"})
    assert marked_as(pixels, record | {"watermark": None}, keys) is pixels


def test_differences_are_counted() -> None:
    one = grainy(64)
    other = one.copy()
    other[0, 0, 1] ^= 4
    assert compare(one, other) == {"same_pixels": False, "most_levels": 4, "share": round(1 / 64**2, 6)}
    assert compare(one, grainy(96))["sizes"] == ["64x64", "96x96"]
    made = dict.fromkeys((*COMPARED, "batch_rows", "safety_verdict"), "same")
    first, second = (
        {**made, "versions": {"torch": "1"}},
        {**made, "device": "other", "versions": {"numpy": "2"}},
    )
    assert made_otherwise(first, second) == {
        "device": ["same", "other"],
        "torch": ["1", None],
        "numpy": [None, "2"],
    }


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (("flagged", "safe"), {}),
        (("blurred", "safe"), {"safety_verdict": ["blurred", "safe"]}),
        (("safe", "blackened"), {"safety_verdict": ["safe", "blackened"]}),
    ],
)
def test_checkers_that_are_left_out_are_not_what_differs(
    verdicts: tuple[str, str], told: dict[str, list[str]]
) -> None:
    made = dict.fromkeys((*COMPARED, "batch_rows"), "same") | {"versions": {"torch": "1"}}
    checked = {"safety_checkers": "nsfw:porn=0.7", "classifier_digest:nsfw": "ab" * 32, "torch": "1"}
    first = made | {"versions": checked, "safety_verdict": verdicts[0]}
    assert made_otherwise(first, made | {"safety_verdict": verdicts[1]}) == told


def test_rows_and_options_are_those_of_the_image() -> None:
    record = {
        **dict.fromkeys(("init_image", "mask_image", "depth_image", "strength", "tenant", "noise_level")),
        **{"prompt": "a fox", "negative_prompt": "", "model": "shapes", "steps": 3, "guidance_scale": 7.5},
        **{"sampler": "ddim", "lora": "", "seed": 2**63, "mode": "text2image", "upscale": 4, "width": 256},
        **{"height": 384, "generated_width": 64, "generated_height": 96},
    }
    row = manifest_row(record)
    assert (row["width"], row["height"], row["upscale"], row["seed"]) == (64, 96, 4, 2**63)
    assert "negative_prompt" not in row
    enlarged = record | {"mode": "upscale", "upscale": 4}
    row = manifest_row(enlarged)
    assert (row["width"], row["height"], "upscale" in row) == (64, 96, False)
    assert manifest_row(enlarged, has_size=False).keys().isdisjoint(("width", "height", "upscale"))
    given = set_options(
        BatchPolicy(
            clip_score="off",
            deep_cache=2,
            parameters=True,
            max_attempts=9,
            format="webp",
            safety_checkers="nsfw-image-detection:nsfw=0.7",
        )
    )
    parsed = parse_policy(dict(option.split("=", 1) for option in given))
    assert (parsed.deep_cache, parsed.clip_score, parsed.parameters) == (2, "off", False)
    assert parsed.safety_checkers is None
    assert (parsed.format, parsed.watermark, parsed.reuse, parsed.max_attempts) == ("png", "off", False, 3)
