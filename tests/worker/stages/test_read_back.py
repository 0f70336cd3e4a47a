"""What is read back is the encoded file, for every format."""

from dataclasses import replace

import numpy as np
import pytest
from PIL.PngImagePlugin import PngInfo

from jobs.settings import Settings
from jobs.states import ImageFormat
from tests.worker.contexts import stage_context
from tests.worker.test_bisect import items
from worker.imaging import encode as encoding
from worker.imaging.encode import Pixels, UnreadableImageError
from worker.imaging.png import encode_png
from worker.item import PipelineItem
from worker.stages.encode import Encode
from worker.stages.verify_watermark import VerifyWatermark
from worker.stages.watermark import Watermark

CONTEXT = stage_context(Settings())


def encoded(item: PipelineItem) -> list[PipelineItem]:
    return Encode(CONTEXT).run([item])


def read_back(items: list[PipelineItem]) -> list[PipelineItem]:
    return VerifyWatermark(CONTEXT).run(items)


def drawn() -> PipelineItem:
    pixels = np.random.default_rng(1).integers(60, 200, (128, 128, 3), dtype=np.uint8)
    return replace(items(1)[0], pixels=pixels)


def broken(pixels: Pixels, text: PngInfo) -> bytes:
    """A PNG encoder that loses the lowest bit of one pixel."""
    other = pixels.copy()
    other[5, 5, 0] ^= 1
    return encode_png(other, text)


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_png_that_holds_other_pixels_is_found(monkeypatch: pytest.MonkeyPatch, is_marked: bool) -> None:
    (given,) = Watermark(CONTEXT).run([drawn()]) if is_marked else [drawn()]
    (right,) = read_back(encoded(given))
    assert right.end is None
    assert right.bit_accuracy == (1.0 if is_marked else None)
    monkeypatch.setattr(encoding, "encode_png", broken)
    with pytest.raises(UnreadableImageError, match="other pixels"):
        read_back(encoded(given))


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_blackened_picture_whose_file_is_not_black_is_found(format: ImageFormat) -> None:
    context = stage_context(Settings(), format=format)
    for grey, is_black in ((0, True), (2, False)):
        pixels = np.full((64, 64, 3), grey, dtype=np.uint8)
        item = replace(items(1)[0], pixels=pixels, safety_verdict="blackened")
        (marked,) = Watermark(context).run([item])
        assert (marked.watermark, np.array_equal(marked.image, pixels)) == (None, True)
        encoded = Encode(context).run([marked])
        if is_black:
            assert VerifyWatermark(context).run(encoded)[0].end is None
        else:
            with pytest.raises(UnreadableImageError, match="isn't wholly black"):
                VerifyWatermark(context).run(encoded)


def test_a_png_that_is_cut_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (marked,) = Watermark(CONTEXT).run([drawn()])
    monkeypatch.setattr(encoding, "encode_png", lambda pixels, text: encode_png(pixels, text)[:-40])
    with pytest.raises(UnreadableImageError):
        read_back(encoded(marked))
