"""The tiled mark: how visible it is, what it survives, how long it takes, and beside it the marks of imwatermark."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.progress import note
from bench.harness.results import Figure, Goal, at_least, at_most
from bench.harness.services import Place
from bench.watermark_robustness.photographs_and_drawings import drawings, photographs
from bench.watermark_robustness.picture_changes import ALIGNED, SEARCHED, Change
from jobs.settings import WATERMARK_TEXT
from models.watermark import codec
from models.watermark.blocks import Pixels
from models.watermark.codec import Method
from models.watermark.tiled.convolutional_code import encode
from models.watermark.tiled.embed import embed
from models.watermark.tiled.identify_mark import identify
from models.watermark.tiled.keyed_carriers import carriers
from models.watermark.tiled.perceptual_analysis import framed, luma_of
from models.watermark.tiled.predict_survival import LEAST_MARGIN, margin_after_jpeg
from models.watermark.tiled.read import LEAST_PILOT, Reading, amplitudes_of, pilot_statistic, read, reading_of
from models.watermark.tiled.search_cropped_and_turned import search

KEY = b"a key of the benchmark"
GOALS: Mapping[str, Goal] = {
    **{name: at_least(0.99) for name in (*ALIGNED, "crop_10")},
    "jpeg_30": at_least(0.95),
    "screenshot": at_least(0.95),
    **{name: at_least(0.9) for name in ("mirror", "turn_1", "turn_2")},
}
_DRAWN_GOALS = {"jpeg_75": at_least(0.9)}
_SMALL_SIDES = (64, 96, 128, 192, 256, 320)

Bits = npt.NDArray[np.uint8]


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure on 208 crops of photographs and 48 drawings, those that need a search on fewer."""
    del place
    photos = list(photographs(4 if is_quick else 208))
    drawn = list(drawings(4 if is_quick else 48))
    rng = np.random.default_rng(1)
    payloads = rng.integers(0, 2, (len(photos) + len(drawn), 64)).astype(np.uint8)
    marked = [embed(pixels, bits, KEY) for pixels, bits in zip([*photos, *drawn], payloads, strict=True)]
    searched = slice(0, len(photos), 1 if is_quick else 6)
    return {
        **_visibility(photos, marked),
        **_survival("", marked[: len(photos)], payloads[: len(photos)], ALIGNED, GOALS, read),
        **_survival(
            "",
            marked[searched],
            payloads[searched],
            SEARCHED,
            GOALS,
            lambda pixels, key: search(pixels, key)[0],
        ),
        **_survival("drawn_", marked[len(photos) :], payloads[len(photos) :], ALIGNED, _DRAWN_GOALS, read),
        **_small([*photos, *drawn], payloads),
        **_predictions(marked, payloads),
        **_peers(photos[searched], payloads[searched]),
        **_false_alarms(photos, 2 if is_quick else 50),
        **_times(photos[0], marked[0], 2 if is_quick else 7),
    }


def similarity(one: Pixels, other: Pixels) -> float:
    """Return the SSIM of two (H, W, 3) uint8 RGB pictures, by the window and constants of Wang et al. 2004."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - optional

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    found = structural_similarity(one, other, data_range=255, channel_axis=-1, **options)  # type: ignore[no-untyped-call]
    return float(found)


def _visibility(before: Sequence[Pixels], after: Sequence[Pixels]) -> dict[str, Figure]:
    pairs = list(zip(before, after, strict=False))
    from skimage.metrics import peak_signal_noise_ratio  # noqa: PLC0415 - optional

    psnr = [float(peak_signal_noise_ratio(a, b)) for a, b in pairs]  # type: ignore[no-untyped-call]
    alike = [similarity(a, b) for a, b in pairs]
    what = f"the unmarked picture, {len(pairs)} crops of photographs"
    return {
        "psnr_least_db": Figure(min(psnr), "dB", what, at_least(42)),
        "psnr_mean_db": Figure(float(np.mean(psnr)), "dB", what),
        "ssim_least": Figure(min(alike), "ratio", what, at_least(0.985)),
        "ssim_mean": Figure(float(np.mean(alike)), "ratio", what),
    }


def _survival(
    prefix: str,
    marked: Sequence[Pixels],
    payloads: Bits,
    changes: Mapping[str, Change],
    goals: Mapping[str, Goal],
    reader: Callable[[Pixels, bytes], Reading],
) -> dict[str, Figure]:
    """Return the share of pictures whose payload is read without any error after each change."""
    found = {}
    for name, change in changes.items():
        readings = [reader(change(pixels), KEY) for pixels in marked]
        right = [
            reading.is_intact and np.array_equal(reading.payload, bits)
            for reading, bits in zip(readings, payloads, strict=True)
        ]
        note(f"{prefix}{name}: {sum(right)} of {len(right)}")
        what = f"{len(right)} pictures, 64 bits exact"
        found[f"{prefix}{name}"] = Figure(float(np.mean(right)), "ratio", what, goals.get(name))
    return found


def _small(pictures: Sequence[Pixels], payloads: Bits) -> dict[str, Figure]:
    """Return what is read of marks in pictures made smaller beforehand, and how often the text of dwtDctSvd is."""
    found: dict[str, Figure] = {}
    text = WATERMARK_TEXT.encode()
    for side in _SMALL_SIDES:
        plain = [cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA) for pixels in pictures]
        marked = [embed(pixels, bits, KEY) for pixels, bits in zip(plain, payloads, strict=True)]
        texts = codec.embed(np.stack(plain), text, Method.DWT_DCT_SVD)
        for name in ("png", "jpeg_75", "webp_80"):
            found |= _survival(f"at_{side}_", marked, payloads, {name: ALIGNED[name]}, {}, read)
            changed = np.stack([ALIGNED[name](pixels) for pixels in texts])
            right = codec.bit_accuracy(changed, text, Method.DWT_DCT_SVD) == 1
            what = f"{len(right)} pictures, {WATERMARK_TEXT} exact, by dwtDctSvd"
            found[f"at_{side}_text_{name}"] = Figure(float(right.mean()), "ratio", what)
    return found


def _predictions(marked: Sequence[Pixels], payloads: Bits) -> dict[str, Figure]:
    """Return how often it is foretold whether the mark survives JPEG, also of what was stored as WebP."""
    stored = [*marked, *(ALIGNED["webp_80"](pixels) for pixels in marked)]
    strong, kept = np.zeros((2, len(stored)), np.bool_)
    for number, (pixels, bits) in enumerate(zip(stored, [*payloads, *payloads], strict=True)):
        strong[number] = margin_after_jpeg(pixels, encode(bits), carriers(KEY)) >= LEAST_MARGIN
        reading = read(ALIGNED["jpeg_75"](pixels), KEY)
        kept[number] = reading.is_intact and np.array_equal(reading.payload, bits)
    note(
        f"called strong: {strong.sum()}, {(strong & kept).sum()} survive; survive: {kept.sum()} of {len(kept)}"
    )
    what = f"{len(stored)} pictures, every other one a WebP of quality 80"
    return {
        "strong_survives": Figure(float(kept[strong].mean()), "ratio", f"JPEG 75, {what}", at_least(0.99)),
        "survivor_called_weak": Figure(float(1 - strong[kept].mean()), "ratio", what, at_most(0.05)),
    }


def _peers(pictures: Sequence[Pixels], payloads: Bits) -> dict[str, Figure]:
    """Return the same of the marks of `invisible-watermark`, in pictures of nightmill's own encoder for them."""
    found = {}
    for method in (Method.DWT_DCT_SVD, Method.DWT_DCT):
        texts = [np.packbits(bits).tobytes() for bits in payloads]
        marked = [codec.embed(pixels, text, method) for pixels, text in zip(pictures, texts, strict=True)]
        for name in ("png", "jpeg_75", "jpeg_50", "webp_80", "half_size"):
            readings = [codec.read(ALIGNED[name](pixels), 64, method) for pixels in marked]
            right = [np.array_equal(each, bits) for each, bits in zip(readings, payloads, strict=True)]
            what = f"{len(right)} pictures, 64 bits exact, by {method}"
            found[f"{method.lower()}_{name}"] = Figure(float(np.mean(right)), "ratio", what)
    return found


def _false_alarms(pictures: Sequence[Pixels], keys: int) -> dict[str, Figure]:
    """Look for marks of many keys in pictures that have none, and search some of them."""
    alarms, surest = 0, 0.0
    others = [carriers(f"key {number}".encode()) for number in range(keys)]
    for pixels in pictures:
        frame = framed(luma_of(pixels), 512)
        for at in others:
            reading = reading_of(max(amplitudes_of(frame, at), key=partial(pilot_statistic, at=at)), at)
            alarms += reading.is_intact and reading.pilot >= LEAST_PILOT
            surest = max(surest, reading.pilot)
    some = pictures[::8]
    found = [identify(pixels, {7: KEY}) for pixels in some]
    alarms += sum(mark is not None for mark in found)
    what = f"{len(pictures) * keys:,} readings and {len(some)} searches of unmarked pictures"
    return {
        "false_alarms": Figure(alarms, "pictures", what, at_most(0)),
        "surest_false_pilot": Figure(surest, "deviations", f"{len(pictures) * keys:,} readings"),
    }


def _times(plain: Pixels, marked: Pixels, rounds: int) -> dict[str, Figure]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = take_turns(
            rounds,
            {
                "embed": lambda: (
                    100 * seconds(lambda: [embed(plain, np.zeros(64, np.uint8), KEY) for _ in range(10)])
                ),
                "read": lambda: 100 * seconds(lambda: [read(marked, KEY) for _ in range(10)]),
                "search": lambda: seconds(lambda: search(SEARCHED["crop_10"](marked), KEY)),
                "search_turned": lambda: seconds(lambda: search(SEARCHED["turn_1"](marked), KEY)),
                "package": lambda: 1000 * seconds(lambda: _by_package(plain)),
            },
        )
    finally:
        cv2.setNumThreads(threads)
    package = f"invisible-watermark's dwtDctSvd: {times.median('package'):,.1f} ms"
    return {
        "embed_512_ms": Figure(times.median("embed"), "ms", "one core", at_most(8)),
        "embed_512_per_package": Figure(times.ratio("package", "embed"), "ratio", package, at_least(8)),
        "read_512_ms": Figure(times.median("read"), "ms", "one core, not cropped", at_most(20)),
        "search_s": Figure(times.median("search"), "s", "one core, a crop", at_most(2)),
        "search_turned_s": Figure(times.median("search_turned"), "s", "one core, turned", at_most(2)),
    }


def _by_package(pixels: Pixels) -> object:
    from imwatermark import WatermarkEncoder  # noqa: PLC0415 - optional

    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", b"nightmil")
    return encoder.encode(pixels, "dwtDctSvd")
