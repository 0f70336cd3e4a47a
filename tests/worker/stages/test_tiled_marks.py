"""Tiled marks in the pipeline: which pictures get one, what it says, and what happens where it can't be read."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from pydantic import SecretStr

from bench.image_files import grainy
from bench.watermark_robustness.picture_changes import ALIGNED
from jobs.setting_values.watermark_key import MarkKey
from jobs.settings import Settings, load_settings
from jobs.states import ErrorKind, WatermarkMethod
from models.watermark.tiled.payload import Payload, installation_number
from models.watermark.tiled.read import read
from tests.models.marked import chessboard
from tests.worker.contexts import stage_context
from tests.worker.test_bisect import items
from worker.item import PipelineItem
from worker.stage import StageContext
from worker.stages.encode import Encode
from worker.stages.verify_watermark import VerifyWatermark
from worker.stages.watermark import Watermark

SECRET = "7:a secret of the test"


@pytest.fixture
def tiled() -> Settings:
    return load_settings(watermark_method=WatermarkMethod.TILED)


def drawn(side: int) -> PipelineItem:
    return replace(items(1)[0], pixels=grainy(side))


def through(own: StageContext, item: PipelineItem) -> PipelineItem:
    """Mark, encode and read back."""
    (found,) = Watermark(own).run([item])
    (found,) = Encode(own).run([found])
    (found,) = VerifyWatermark(own).run([found])
    return found


def test_the_mark_says_which_job_it_was(tiled: Settings) -> None:
    item = drawn(512)
    found = through(stage_context(tiled), item)
    said = Payload(0, installation_number(UUID(int=1)), item.job.id)
    assert (found.watermark, found.watermark_method, found.bit_accuracy) == (said.hex, "tiled", 1.0)
    assert Payload.of_bits(read(found.image, b"nightmill").payload) == said


def test_a_key_of_ones_own_is_needed_to_read_it(tiled: Settings) -> None:
    own = tiled.model_copy(update={"watermark_key": SecretStr(SECRET)})
    found = through(stage_context(own), drawn(512))
    assert not read(found.image, b"nightmill").is_intact
    assert Payload.of_bits(read(found.image, b"a secret of the test").payload).key_id == 7


def test_small_pictures_and_batches_with_a_text_have_the_text(tiled: Settings) -> None:
    for own, side, text in (
        (stage_context(tiled), 96, "NMIL"),
        (stage_context(tiled, watermark_text="ACME"), 512, "ACME"),
    ):
        found = through(own, drawn(side))
        assert (found.watermark, found.watermark_method, found.bit_accuracy) == (text, "dwtDctSvd", 1.0)


def test_small_pictures_have_it_where_they_hold_it(tiled: Settings) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    for pixels, method in ((grainy(128), "tiled"), (noise, "dwtDctSvd")):
        found = through(stage_context(tiled), replace(drawn(128), pixels=pixels))
        assert (found.watermark_method, found.bit_accuracy) == (method, 1.0)


def test_what_cannot_hold_it_has_the_text(tiled: Settings) -> None:
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 3), 86)[:512]
    item = replace(drawn(512), pixels=np.broadcast_to(stripes[None, :, None], (512, 512, 3)).copy())
    found = through(stage_context(tiled), item)
    assert (found.watermark, found.watermark_method, found.bit_accuracy) == ("NMIL", "dwtDctSvd", 1.0)
    thin = replace(drawn(512), pixels=np.full((8, 20_000, 3), 90, np.uint8))
    assert through(stage_context(tiled), thin).watermark is not None


def test_pictures_of_both_kinds_go_through_together(tiled: Settings) -> None:
    own = stage_context(tiled)
    marked = Watermark(own).run([drawn(96), drawn(512)])
    read_back = VerifyWatermark(own).run(Encode(own).run(marked))
    assert sorted(str(item.watermark_method) for item in read_back) == ["dwtDctSvd", "tiled"]


def test_a_mark_that_the_format_destroys_ends_the_job_or_is_told(tiled: Settings) -> None:
    flat = replace(drawn(512), pixels=np.full((512, 512, 3), 90, np.uint8))
    lossy = {"format": "jpeg", "quality": 1}
    ended = through(stage_context(tiled, **lossy), flat)
    assert ended.end is not None
    assert ended.end.kind == ErrorKind.WATERMARK
    assert "of its bits, 100% are needed" in ended.end.text
    best = through(stage_context(tiled, watermark="best-effort", **lossy), flat)
    assert best.bit_accuracy is not None
    assert best.bit_accuracy < 1
    assert best.mark_strength == "weak"


def test_weak_marks_are_told(tiled: Settings) -> None:
    own = stage_context(tiled)
    for pixels, strength in ((grainy(512), "strong"), (chessboard(512), "weak")):
        found = through(own, replace(drawn(512), pixels=pixels))
        assert (found.bit_accuracy, found.mark_strength) == (1.0, strength)
        again = read(ALIGNED["jpeg_75"](found.image), own.mark_key.secret)
        assert again.is_intact == (strength == "strong")
    assert through(stage_context(tiled, watermark_text="ACME"), drawn(512)).mark_strength is None


def test_weak_marks_fail_the_job_where_strong_ones_are_required(tiled: Settings) -> None:
    own = stage_context(tiled, watermark="require-strong")
    assert through(own, drawn(512)).mark_strength == "strong"
    black = replace(drawn(512), pixels=np.zeros((512, 512, 3), np.uint8), safety_verdict="blackened")
    assert (through(own, black).end, through(own, black).mark_strength) == (None, None)
    for item, why in (
        (replace(drawn(512), pixels=chessboard(512)), "the mark is weak"),
        (drawn(96), "the mark is a text (dwtDctSvd)"),
    ):
        end = through(own, item).end
        assert end is not None
        assert end.kind == ErrorKind.WATERMARK
        assert end.text.startswith(why)
        assert end.text.endswith("; watermark=require lets such images pass")
    (small,) = Watermark(own).run([drawn(8)])
    assert small.end is not None


@pytest.mark.parametrize(
    "given",
    ["secret", "0:a secret of the test", "256:a secret of the test", "7:short", "7:a secret of the test\n"],
)
def test_a_key_has_a_number_and_some_length_and_is_not_shown(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_WATERMARK_KEY", given)
    with pytest.raises(Exception, match="NIGHTMILL_WATERMARK_KEY: must be NUMBER:SECRET") as refused:
        load_settings()
    assert given not in str(refused.value)


def test_a_key_is_told_by_its_fingerprint_alone() -> None:
    one, other = MarkKey.parse(SECRET), MarkKey.parse(SECRET + "!")
    assert one.fingerprint != other.fingerprint
    assert "secret" not in repr(one) + one.fingerprint
