"""Both methods of the watermark on batches, compared with the reference package."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imwatermark import WatermarkDecoder
from imwatermark.maxDct import EmbedMaxDct

from models.watermark import blocks
from models.watermark.codec import Method, embed, read
from tests.models.marked import Pixels, bits_of, flat, noise, picture, reference_accuracy

MARK = b"StableDiffusionV1"
METHODS = list(Method)
MAKERS: dict[str, Callable[[int, int, int], Pixels]] = {
    "picture": picture,
    "garish": lambda width, height, seed: picture(width, height, seed, 250),
    "noise": noise,
    "corners": lambda width, height, seed: noise(width, height, seed) // 128 * 255,
    "flat": lambda width, height, seed: flat(width, height, tuple(noise(1, 1, seed)[0, 0])),
}


def reference(pixels: Pixels, payload: bytes) -> Pixels:
    """As the package's `dwtDct` marks it; its front would refuse pictures under 256x256 pixels."""
    bits = list(bits_of(payload))
    marked: Pixels = EmbedMaxDct(bits, wmLen=len(bits)).encode(pixels[..., ::-1].copy())
    return marked[..., ::-1]


def batch_of(width: int, height: int, count: int = 4) -> Pixels:
    makers = list(MAKERS.values())
    return np.stack([makers[number % 4](width, height, number) for number in range(count)])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.integers(8, 300), st.integers(8, 300), st.integers(0, 999))
def test_dwt_dct_is_the_packages_to_the_bit(make: str, width: int, height: int, seed: int) -> None:
    room = (width // 8) * (height // 8) // 8
    payload = np.random.default_rng(seed).bytes(min(17, room))
    if not payload:
        return
    pixels = MAKERS[make](width, height, seed)
    assert np.array_equal(embed(pixels, payload, Method.DWT_DCT), reference(pixels, payload))


@pytest.mark.parametrize("make", sorted(MAKERS))
def test_dwt_dct_of_pictures_in_several_strips(make: str) -> None:
    for width, height in ((512, 1030), (1100, 483)):
        pixels = MAKERS[make](width, height, 7)
        assert np.array_equal(embed(pixels, MARK, Method.DWT_DCT), reference(pixels, MARK))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (301, 259), (256, 1500)])
def test_a_batch_is_marked_and_read_as_its_pictures_alone(method: Method, width: int, height: int) -> None:
    pixels, mark = batch_of(width, height, 7), MARK[: 8 if width == 64 else None]
    kept = pixels.copy()
    marked = embed(pixels, mark, method)
    assert np.array_equal(pixels, kept)
    bits = read(marked, 8 * len(mark), method)
    for one, told, original in zip(marked, bits, pixels, strict=True):
        assert np.array_equal(one, embed(original, mark, method))
        assert np.array_equal(told, read(one, 8 * len(mark), method))


def test_the_reference_decoder_reads_every_picture_of_a_batch() -> None:
    for one in embed(batch_of(320, 264), MARK):
        assert reference_accuracy(one, MARK) == 1


@pytest.mark.parametrize("make", sorted(MAKERS))
def test_dwt_dct_reads_what_the_reference_reads(make: str) -> None:
    decoder = WatermarkDecoder("bits", 8 * len(MARK))
    for seed, (width, height) in enumerate([(256, 256), (301, 411), (516, 260)]):
        pixels = MAKERS[make](width, height, seed)
        for one in (pixels, embed(pixels, MARK, Method.DWT_DCT)):
            theirs = decoder.decode(one[..., ::-1].copy(), "dwtDct")
            assert np.array_equal(read(one, 8 * len(MARK), Method.DWT_DCT), theirs)


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 64, 64), (3, 1030, 512), (2, 77, 4001), (300, 16, 64)])
def test_strips_cover_every_row_once_and_cut_no_block(shape: tuple[int, int, int]) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    for strip in blocks.strips(pixels):
        pixels[strip.pixels] += 1
        assert strip.rows.start % 8 == 0
        assert strip.rows.stop % 8 == 0 or strip.rows.stop == shape[1]
    assert (pixels == 1).all()
