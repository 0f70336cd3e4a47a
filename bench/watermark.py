"""The invisible watermark in images with the grain of photographs, compared with the package `invisible-watermark`."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.progress import note
from bench.harness.results import Figure, at_least
from bench.image_files import SIDES, grainy
from models.watermark import codec as watermark
from models.watermark.blocks import Pixels
from models.watermark.codec import Method

MARK = b"StableDiffusionV1"
GOALS = {Method.DWT_DCT: 15, Method.DWT_DCT_SVD: 20}
# Images per batch, by side; figures are per image.
_BATCH = {512: 4, 2048: 1}


def measure_marks(rounds: int, sides: Sequence[int] = SIDES) -> dict[str, Figure]:
    """Measure how much faster than the package watermarks are embedded; without the package, print a note and skip."""
    if missing := [package for package in ("imwatermark", "pywt") if find_spec(package) is None]:
        note(f"invisible-watermark: not measured, {missing[0]} is not installed; make .venv/.installed-dev")
        return {}
    found: dict[str, Figure] = {}
    for method in GOALS:
        for side in sides:
            found |= _embedding(method, side, rounds)
    return found


def _embedding(method: Method, side: int, rounds: int) -> dict[str, Figure]:
    pixels, count = grainy(side), _BATCH[side]
    package, batch = _package(method), np.stack([pixels] * count)
    times = take_turns(
        rounds,
        {
            "package": lambda: 1000 * seconds(lambda: package(pixels)),
            "ours": lambda: 1000 * seconds(lambda: watermark.embed(batch, MARK, method)) / count,
        },
    )
    name = "dwt_dct" if method == Method.DWT_DCT else "dwt_dct_svd"
    against = f"invisible-watermark's {method}, {side} x {side}: {times.median('package'):,.1f} ms"
    return {
        f"{name}_{side}_per_package": Figure(
            times.ratio("package", "ours"), "ratio", against, at_least(GOALS[method])
        ),
        f"{name}_{side}_ms": Figure(times.median("ours"), "ms/image", f"{count} of {side} x {side} at once"),
    }


def _package(method: Method) -> Callable[[Pixels], Pixels]:
    from imwatermark import WatermarkEncoder  # noqa: PLC0415 - optional

    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", MARK)
    return lambda pixels: encoder.encode(pixels, method.value)
