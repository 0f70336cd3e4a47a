"""What is read back is the encoded file, for every format."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from PIL.PngImagePlugin import PngInfo

from jobs.job_types import Lane
from jobs.states import WatermarkMethod
from tests.worker.test_bisect import items
from worker.imaging import encode as encoding
from worker.imaging.encode import Pixels, UnreadableImageError
from worker.imaging.png import encode_png
from worker.item import PipelineItem
from worker.stages.finish import FinishStages

PAYLOAD = "NMIL"


class _Lane:
    """What finishing asks of a lane."""

    watermark = "require"
    format = "png"
    quality = 95
    parameters = False


def finishing() -> FinishStages:
    nothing: Any = None
    lane = cast("Lane", _Lane())
    return FinishStages(nothing, lane, nothing, nothing, PAYLOAD, WatermarkMethod.DWT_DCT_SVD, {})


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
    stages = finishing()
    given = stages.mark([drawn()]) if is_marked else [drawn()]
    (right,) = stages.read_mark_back(stages.encode(given))
    assert right.end is None
    assert right.bit_accuracy == (1.0 if is_marked else None)
    monkeypatch.setattr(encoding, "encode_png", broken)
    with pytest.raises(UnreadableImageError, match="other pixels"):
        stages.read_mark_back(stages.encode(given))


def test_a_png_that_is_cut_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = finishing()
    monkeypatch.setattr(encoding, "encode_png", lambda pixels, text: encode_png(pixels, text)[:-40])
    with pytest.raises(UnreadableImageError):
        stages.read_mark_back(stages.encode(stages.mark([drawn()])))
