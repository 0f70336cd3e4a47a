from collections.abc import Callable

import cv2
import numpy as np
import pytest

from models.watermark.codec import MarkTooSmallError, bit_accuracy, capacity, embed, examine, read
from models.watermark.dwt_dct_svd import singular_values
from tests.models.marked import Pixels, bits_of, flat, jpeg, noise, picture, psnr, reference_accuracy

MARK = b"NMIL"
SIZES = [(256, 256), (512, 512), (768, 512), (301, 411), (257, 1023)]


@pytest.mark.parametrize("make", [picture, noise])
@pytest.mark.parametrize("payload", [MARK, b"StableDiffusionV1"])
def test_the_reference_decoder_reads_every_bit(make: Callable[..., Pixels], payload: bytes) -> None:
    for seed, (width, height) in enumerate(SIZES):
        original = make(width, height, seed)
        marked = embed(original, payload)
        assert reference_accuracy(marked, payload) == bit_accuracy(marked, payload) == 1
        assert psnr(original, marked) > 42


def test_the_reference_decoder_reads_large_pictures() -> None:
    original = picture(2048, 2048, 1)
    marked = embed(original, MARK)
    assert reference_accuracy(marked, MARK) == 1
    assert psnr(original, marked) > 43


@pytest.mark.parametrize(
    "make", [picture, noise, lambda width, height, seed: picture(width, height, seed, 250)]
)
def test_small_and_saturated_pictures_read_back(make: Callable[..., Pixels]) -> None:
    for seed in range(100):
        original = make(64, 64, seed)
        payload = np.random.default_rng(seed).bytes(4)
        marked = embed(original, payload)
        assert np.array_equal(read(marked, 32), bits_of(payload))
        assert psnr(original, marked) > 39


@pytest.mark.parametrize(
    "colour", [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)] + [(128,) * 3]
)
def test_flat_colours_read_back(colour: tuple[int, int, int]) -> None:
    small, large = embed(flat(64, 64, colour), MARK), embed(flat(256, 256, colour), MARK)
    assert bit_accuracy(small, MARK) == bit_accuracy(large, MARK) == reference_accuracy(large, MARK) == 1
    assert psnr(flat(64, 64, colour), small) > 36
    assert bit_accuracy(jpeg(large, 95), MARK) == 1


@pytest.mark.parametrize("quality", [95, 80])
def test_the_mark_outlives_jpeg(quality: int) -> None:
    for seed in range(4):
        compressed = jpeg(embed(picture(512, 512, seed), MARK), quality)
        assert bit_accuracy(compressed, MARK) == reference_accuracy(compressed, MARK) == 1


def test_an_unmarked_picture_reads_like_a_coin() -> None:
    readings = [examine(picture(256, 256, seed), MARK) for seed in range(20)]
    assert 0.4 < np.mean([reading.bit_accuracy for reading in readings]) < 0.6
    assert max(reading.confidence for reading in readings) < 0.5
    assert examine(embed(picture(256, 256, 0), MARK), MARK).confidence > 0.9


def test_the_original_and_the_border_stay() -> None:
    original = picture(71, 78, 3)
    kept = original.copy()
    marked = embed(original, MARK)
    assert np.array_equal(original, kept)
    assert np.array_equal(marked[72:], original[72:])
    assert np.array_equal(marked[:, 64:], original[:, 64:])
    assert np.array_equal(marked, embed(original, MARK))


def test_pictures_without_room_are_refused() -> None:
    assert (capacity(64, 64), capacity(7, 512), capacity(79, 16)) == (64, 0, 18)
    assert bit_accuracy(embed(picture(64, 64, 0), b"12345678"), b"12345678") == 1
    with pytest.raises(MarkTooSmallError, match="64x64 pixels hold a mark of 1 to 64 bits, not 72"):
        embed(picture(64, 64, 0), b"123456789")
    with pytest.raises(MarkTooSmallError, match="not 32"):
        read(picture(32, 32, 0), 32)
    with pytest.raises(MarkTooSmallError, match="not 0"):
        embed(picture(64, 64, 0), b"")


@pytest.mark.parametrize(
    "make", [picture, noise, lambda *_: np.repeat(np.repeat(noise(32, 32, 1) // 128 * 255, 2, 0), 2, 1)]
)
def test_singular_values_are_those_of_an_exact_decomposition(make: Callable[..., Pixels]) -> None:
    pixels = make(64, 64, 5)
    u = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV)[..., 1].reshape(8, 4, 2, 8, 4, 2).sum(axis=(2, 5)) / 2
    exact = np.linalg.svd(u.transpose(0, 2, 1, 3), compute_uv=False)[..., 0]
    assert np.abs(singular_values(pixels[None])[0] - exact).max() < 0.5
