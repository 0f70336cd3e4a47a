"""The perceptual hash: copies of a picture are near it, other pictures are far, and the hash is OpenCV's."""

import numpy as np
import pytest

from models.assess.perceptual_hash import Pixels, perceptual_hash
from models.shapes.drawing import draw
from models.shapes.perceptual_hash_accuracy import COPIES, near_copies
from models.shapes.world import Scene, random_scene
from models.watermark import codec


def scenes(number: int) -> list[Scene]:
    rng = np.random.default_rng(1)
    return [random_scene(rng)[0] for _ in range(number)]


def textured(side: int) -> Pixels:
    """Noise of all scales, as a photograph has it."""
    rng = np.random.default_rng(2)
    layers = [
        np.kron(rng.random((size, size, 3)), np.ones((side // size, side // size, 1)))
        for size in (4, 8, 16, 32)
    ]
    return (255 * np.mean(layers, axis=0)).astype(np.uint8)


def distance(one: Pixels, other: Pixels) -> int:
    return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()


def test_it_is_sixteen_hex_digits_and_always_the_same() -> None:
    picture = textured(64)
    assert perceptual_hash(picture) == perceptual_hash(picture.copy())
    assert len(perceptual_hash(picture)) == 16
    assert int(perceptual_hash(picture), 16).bit_count() > 8


def test_bits_are_the_signs_of_the_lowest_frequencies() -> None:
    """A horizontal wave has one coefficient above the mean, whose place tells the order of bits."""
    wave = 127 + 100 * np.cos(np.pi * (np.arange(32) + 0.5) * 3 / 32)
    picture = np.repeat(np.tile(wave, (32, 1))[:, :, None], 3, axis=2).astype(np.uint8)
    assert perceptual_hash(picture) == f"{1 << (63 - 3):016x}"


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("side", [64, 256, 512])
def test_copies_are_near(kind: str, side: int) -> None:
    assert distance(textured(side), COPIES[kind](textured(side))) <= 4


def test_a_marked_picture_is_near_the_one_without_the_mark() -> None:
    picture = textured(512)
    (marked,) = codec.embed(picture[None], b"NMIL", codec.Method.DWT_DCT_SVD)
    assert not np.array_equal(marked, picture)
    assert distance(picture, marked) <= 4


def test_scenes_that_differ_are_far_apart() -> None:
    found = near_copies([[draw(scene)] * 2 for scene in scenes(60)], 4)
    assert np.mean(list(found.found.values())) > 0.9
    assert found.other_prompts < 0.01
