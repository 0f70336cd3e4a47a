"""PNG files of pictures with the grain of photographs, beside Pillow's."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.figures import Figure, at_least, at_most
from bench.rounds import seconds, take_turns
from worker.png import Pixels, encode_png

SIDES = (512, 2048)


def measure_files(rounds: int, sides: Sequence[int] = SIDES) -> dict[str, Figure]:
    """How much faster than Pillow's default a PNG is written, and how large it is."""
    return {name: figure for side in sides for name, figure in _png(side, rounds).items()}


def _png(side: int, rounds: int) -> dict[str, Figure]:
    pixels = grainy(side)
    times = take_turns(
        rounds,
        {
            "pillow": lambda: 1000 * seconds(lambda: _by_pillow(pixels)),
            "ours": lambda: 1000 * seconds(lambda: encode_png(pixels, PngInfo())),
        },
    )
    size = len(encode_png(pixels, PngInfo())) / len(_by_pillow(pixels))
    against = f"Pillow's default, {side} x {side}: {times.median('pillow'):,.1f} ms"
    return {
        f"png_{side}_per_pillow": Figure(times.ratio("pillow", "ours"), "ratio", against, at_least(8)),
        f"png_{side}_ms": Figure(times.median("ours"), "ms", f"a picture of {side} x {side}"),
        f"png_{side}_size": Figure(size, "ratio", "the file that Pillow writes by default", at_most(1.15)),
    }


def _by_pillow(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def grainy(side: int) -> Pixels:
    """Soft shapes of all sizes, and noise of two grey levels."""
    rng = np.random.default_rng(side)
    image = rng.normal(scale=2, size=(side, side, 3)) + 128
    for power in range(1, 10):
        coarse = rng.normal(size=(2**power, 2**power, 3))
        image += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) * 60 / power
    return np.clip(image, 0, 255).astype(np.uint8)
