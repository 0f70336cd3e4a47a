"""What is predicted of a mark's survival, and what becomes of it."""

from collections.abc import Iterator

import numpy as np
import pytest

from bench.image_files import grainy
from bench.watermark_robustness.photographs_and_drawings import drawings
from bench.watermark_robustness.picture_changes import ALIGNED
from jobs.states import ImageFormat
from models.watermark.blocks import Pixels
from models.watermark.tiled.convolutional_code import encode as symbols_of
from models.watermark.tiled.embed import embed
from models.watermark.tiled.keyed_carriers import carriers
from models.watermark.tiled.payload import Payload
from models.watermark.tiled.perceptual_analysis import EXPONENTS
from models.watermark.tiled.predict_survival import (
    LEAST_MARGIN,
    margin_after_half_size_and_jpeg,
    margin_after_jpeg,
)
from models.watermark.tiled.read import read
from tests.models.marked import chessboard
from worker.imaging.encode import decode, encode

KEY = b"a key"
SAID = Payload(key_id=3, installation=0xBEEF, job=123_456_789_012)
SYMBOLS, AT = symbols_of(SAID.bits), carriers(KEY)


def is_read(pixels: Pixels) -> bool:
    found = read(pixels, KEY)
    return found.is_intact and Payload.of_bits(found.payload) == SAID


def stored() -> Iterator[Pixels]:
    """Yield marked pictures of all kinds as they are read from files, those of which the mark is lost, too."""
    for pixels in (grainy(512), chessboard(512), np.full((512, 512, 3), 255, np.uint8), *drawings(8)):
        marked = embed(pixels, SAID.bits, KEY)
        yield marked
        yield decode(encode(marked, ImageFormat.WEBP, quality=85, parameters=None).body)


def test_what_is_predicted_to_survive_does() -> None:
    survivals = [
        (is_read(ALIGNED["jpeg_75"](pixels)), margin_after_jpeg(pixels, SYMBOLS, AT)) for pixels in stored()
    ]
    assert all(is_right for is_right, margin in survivals if margin >= LEAST_MARGIN)
    assert not any(is_right for is_right, margin in survivals if margin < LEAST_MARGIN - 0.25)
    assert {is_right for is_right, _ in survivals} == {True, False}


def test_half_the_size_takes_more() -> None:
    textured, flat = (embed(pixels, SAID.bits, KEY) for pixels in (grainy(512), next(drawings(1))))
    for pixels, is_kept in ((textured, True), (flat, False)):
        margin = max(margin_after_half_size_and_jpeg(pixels, SYMBOLS, AT, each) for each in EXPONENTS)
        assert (margin >= LEAST_MARGIN) == is_kept == is_read(ALIGNED["half_size_jpeg_75"](pixels))
        assert margin < margin_after_jpeg(pixels, SYMBOLS, AT)


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (8, 20_000), (1, 70_000)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    assert margin_after_jpeg(pixels, SYMBOLS, AT) < LEAST_MARGIN
    assert margin_after_half_size_and_jpeg(pixels, SYMBOLS, AT, EXPONENTS[0]) < LEAST_MARGIN
