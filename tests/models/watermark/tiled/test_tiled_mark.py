"""The tiled mark: embedded, read and searched for in pictures with the grain of photographs and in flat ones."""

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from bench.image_files import grainy
from bench.watermark_robustness.measure_robustness import similarity
from bench.watermark_robustness.photographs_and_drawings import drawings
from bench.watermark_robustness.picture_changes import ALIGNED, SEARCHED
from models.watermark.blocks import Pixels
from models.watermark.tiled.embed import embed
from models.watermark.tiled.identify_mark import identify
from models.watermark.tiled.keyed_carriers import carriers
from models.watermark.tiled.payload import Payload
from models.watermark.tiled.read import read
from models.watermark.tiled.search_cropped_and_turned import search

KEY = b"a key"
SAID = Payload(key_id=3, installation=0xBEEF, job=123_456_789_012)


def said(pixels: Pixels, key: bytes = KEY) -> Payload | None:
    found = read(pixels, key)
    return Payload.of_bits(found.payload) if found.is_intact else None


@pytest.fixture(scope="module")
def plain() -> Pixels:
    return grainy(512)


@pytest.fixture(scope="module")
def marked(plain: Pixels) -> Pixels:
    return embed(plain, SAID.bits, KEY)


def test_a_mark_is_hardly_seen(plain: Pixels, marked: Pixels) -> None:
    assert (marked.shape, marked.dtype) == (plain.shape, np.uint8)
    error = float(np.mean((marked.astype(np.float32) - plain) ** 2))
    assert 42 < 10 * np.log10(255**2 / error) < 60
    assert similarity(plain, marked) > 0.98


@pytest.mark.parametrize("change", ALIGNED.values(), ids=ALIGNED)
def test_it_is_read_after_what_pictures_go_through(
    marked: Pixels, change: Callable[[Pixels], Pixels]
) -> None:
    assert said(change(marked)) == SAID


@pytest.mark.parametrize("change", SEARCHED.values(), ids=SEARCHED)
def test_it_is_found_in_cropped_mirrored_and_turned_pictures(
    marked: Pixels, change: Callable[[Pixels], Pixels]
) -> None:
    found, place = search(change(marked), KEY)
    assert (found.is_intact, Payload.of_bits(found.payload)) == (True, SAID)
    assert place.pilot > 6


def test_it_is_found_in_a_part_of_a_large_picture(plain: Pixels) -> None:
    """Which is made smaller before it is searched."""
    large = embed(cv2.resize(plain, (2600, 2600), interpolation=cv2.INTER_CUBIC), SAID.bits, KEY)
    found, _ = search(np.ascontiguousarray(large[200:-200, 150:-250]), KEY)
    assert (found.is_intact, Payload.of_bits(found.payload)) == (True, SAID)


@pytest.mark.parametrize("shape", [(1, 70_000, 3), (40_000, 2, 3), (1, 1, 3)])
def test_a_picture_with_no_room_for_a_tile_has_none(shape: tuple[int, int, int]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert identify(pixels, {3: KEY}) is None


def test_nothing_is_found_without_the_key_or_the_mark(plain: Pixels, marked: Pixels) -> None:
    for pixels, key in ((plain, KEY), (marked, b"another key")):
        found = read(pixels, key)
        assert (found.is_intact, found.pilot < 5) == (False, True)
        assert search(pixels, key)[0].pilot < 7


@pytest.mark.parametrize("size", [(512, 768), (400, 400), (720, 1280), (1024, 512), (333, 501)])
def test_pictures_of_any_size_and_proportions(size: tuple[int, int]) -> None:
    height, width = size
    pixels = np.ascontiguousarray(cv2.resize(grainy(1024), (1280, 1280))[:height, :width])
    marked = embed(pixels, SAID.bits, KEY)
    assert said(marked) == said(ALIGNED["jpeg_75"](marked)) == SAID


def test_flat_pictures_hold_it_in_lossless_files() -> None:
    for pixels in (*drawings(4), np.full((512, 512, 3), 90, np.uint8)):
        assert said(embed(pixels, SAID.bits, KEY)) == SAID


def test_drawings_hold_it_through_jpeg() -> None:
    """Pages of text need the second strength."""
    for pixels in drawings(8):
        assert said(ALIGNED["jpeg_75"](embed(pixels, SAID.bits, KEY))) == SAID


def test_what_would_be_lost_is_marked_more_strongly(plain: Pixels) -> None:
    faint = np.rint(128 + 0.1 * (plain.astype(np.float32) - 128)).astype(np.uint8)
    marked = embed(faint, SAID.bits, KEY)
    assert said(ALIGNED["half_size_jpeg_75"](marked)) == SAID
    assert similarity(faint, marked) > 0.98


def test_each_picture_of_a_job_says_which(plain: Pixels) -> None:
    for payload in (Payload(0, 0, 0), Payload(255, 0xFFFF, (1 << 40) - 1)):
        assert said(embed(plain, payload.bits, KEY)) == payload
    assert SAID.hex == "03beef1cbe991a14"
    for values in ((256, 0, 0), (0, 1 << 16, 0), (0, 0, 1 << 40), (-1, 0, 0)):
        with pytest.raises(ValueError, match="has no"):
            Payload(*values)


def test_the_carriers_of_a_key_are_the_same_everywhere() -> None:
    """Marks of today are to be read in ten years."""
    at = carriers(KEY)
    drawn = np.concatenate([at.rows, at.columns, at.symbols]).astype("<i8").tobytes()
    assert (len(at.rows), at.pilots, at.counts.min(), at.counts.max()) == (1258, 314, 5, 6)
    assert hashlib.sha256(drawn).hexdigest()[:16] == DRAWN


DRAWN = "5efeec93609ca117"
