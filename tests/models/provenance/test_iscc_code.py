"""ISCC Image-Codes: those of the reference implementation, near for changed copies and far for other pictures."""

import io

import iscc_core
import numpy as np
import pytest
from PIL import Image

from bench.image_files import grainy
from models.provenance.iscc_code import bits_of, image_code
from models.watermark.blocks import Pixels


def pictures() -> list[Pixels]:
    """Flat, striped, noisy and smooth pictures without borders of one colour."""
    rng = np.random.default_rng(0)
    flat = [np.full((64, 48, 3), value, np.uint8) for value in (0, 7, 128, 255)]
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (1, 64, 3))
    blown = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                (int(rng.integers(33, 200)), int(rng.integers(33, 200))), Image.Resampling.BICUBIC
            )
        )
        for side in range(2, 34)
    ]
    return [*flat, ramp, ramp.transpose(1, 0, 2).copy(), *blown]


@pytest.mark.parametrize("pixels", pictures())
def test_codes_are_those_of_the_reference_implementation(pixels: Pixels) -> None:
    grey = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BICUBIC)
    assert image_code(pixels) == iscc_core.gen_image_code_v0(np.asarray(grey).ravel().tolist())["iscc"]


def test_a_border_of_one_colour_changes_nothing() -> None:
    pixels = grainy(128)
    framed = np.full((160, 180, 3), 255, np.uint8)
    framed[20:148, 30:158] = pixels
    assert image_code(framed) == image_code(pixels)


def differing(one: Pixels, other: Pixels) -> int:
    return (bits_of(image_code(one)) ^ bits_of(image_code(other))).bit_count()


def test_changed_copies_are_near_and_other_pictures_are_far() -> None:
    pixels, stream = grainy(256), io.BytesIO()
    Image.fromarray(pixels).resize((128, 128)).save(stream, "JPEG", quality=50)
    with Image.open(stream) as copy:
        assert differing(pixels, np.asarray(copy)) <= 6
    assert differing(pixels, grainy(256)[::-1].copy()) > 16


@pytest.mark.parametrize("code", ["", "ISCC:", "ISCC:EEA4FESMKUZL3X6", "ISCC:KEA4FESMKUZL3X6I", "EEA!"])
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        bits_of(code)
