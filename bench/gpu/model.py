"""One model's figures: nightmill's, diffusers' own, and those of mixed batches."""

import time
from dataclasses import asdict
from typing import Any

import torch

from bench.gpu.architectures import Architecture
from bench.gpu.company import STEPS, identical_hashes, shuffled_per_alike
from bench.gpu.decoding import measure_decoding
from bench.gpu.drawing import Ours, Stock
from bench.gpu.networks import Cost, cost_of
from bench.gpu.pace import Pace, measure_pace
from bench.gpu.run import Run
from models.errors import OutOfMemoryError

_NO_MEMORY = (OutOfMemoryError, torch.OutOfMemoryError)
_TOO_LITTLE = "the device has too little memory"
_SWEEP = 0.5
"""The share of a model's time after which no other batch size is tried."""


def measure_model(run: Run, architecture: Architecture, until: float, *, in_company: bool) -> Pace | None:
    """Measure nightmill and diffusers until that share of the time has passed; returns nightmill's fastest pace.

    With `in_company`, also measure shuffled manifests and identical images.
    """
    found: list[Pace] = []

    def nightmill() -> None:
        found.append(_nightmill(run, architecture, until, in_company))

    run.budget.attempt(f"{architecture.title}: nightmill", nightmill, needs_s=run.start_s)
    if found:
        run.budget.attempt(
            f"{architecture.title}: diffusers", lambda: _diffusers(run, architecture, found[0], until)
        )
    return found[0] if found else None


def _nightmill(run: Run, architecture: Architecture, until: float, in_company: bool) -> Pace:
    cost = cost_of(architecture)
    ours, pace = _quickest(run, architecture, until)
    _tell(run, architecture, pace, cost)
    if in_company:
        if ours is None:
            ours = Ours(architecture, run.device_of(architecture), run.compile_options)
            ours.at(pace.rows)(pace.rows, 2)
        _company(run, ours, pace, cost)
    if ours is not None and not architecture.is_upscaler:
        vae = ours.vae
        run.budget.attempt(
            f"{architecture.title}: decoding", lambda: _decoding(run, architecture, vae, pace.rows, cost)
        )
    return pace


def _quickest(run: Run, architecture: Architecture, until: float) -> tuple[Ours | None, Pace]:
    """Return the fastest batch size's pace, and the model that it was measured with if it is still loaded."""
    best: tuple[Ours | None, Pace] | None = None
    taken_s, stop_at_s = 0.0, run.budget.left() - _SWEEP * run.budget.left(until)
    for rows in run.rows or architecture.rows:
        what = f"{architecture.title}, {rows} at once"
        if best and run.budget.left() - taken_s < stop_at_s:
            run.budget.leave_out(what, "no time to try")
            continue
        best = best and (None, best[1])
        started = time.monotonic()
        found = _tried(run, architecture, rows, until)
        taken_s = time.monotonic() - started
        run.start_s = max(run.start_s, taken_s)
        if found is None:
            run.budget.leave_out(what, _TOO_LITTLE)
        elif best is None or found[1].images_per_s > best[1].images_per_s:
            best = found
        del found
    if best is None:
        raise RuntimeError("no number of images fits the device's memory")
    return best


def _tried(run: Run, architecture: Architecture, rows: int, until: float) -> tuple[Ours, Pace] | None:
    """Return a new model and its pace; None if memory runs out."""
    try:
        ours = Ours(architecture, run.device_of(architecture), run.compile_options)
        allowance_s = run.budget.allowance(until)
        return ours, measure_pace(ours.at(rows), rows, architecture.steps, run.device.name, allowance_s)
    except _NO_MEMORY:
        return None


def _tell(run: Run, architecture: Architecture, pace: Pace, cost: Cost) -> None:
    key, flop = architecture.key, cost.image(architecture)
    manner = (
        ", ".join(name.replace("_", " ") for name, is_so in asdict(run.compile_options).items() if is_so)
        or "eager"
    )
    what = f"{architecture.title}, {architecture.sampler}, {pace.rows} at once, {manner}; {pace.how}"
    run.add(f"{key}_images_per_s", pace.images_per_s, "images/s", what)
    if run.ceiling:
        run.add(
            f"{key}_of_ceiling",
            pace.images_per_s * flop / run.ceiling,
            "ratio",
            f"{run.ceiling / 1e12:.4g} TFLOP/s of matrix products; UNet and VAE need {flop / 1e12:.3g} TFLOP an image",
        )
    _tell_costs(run, key, pace, "nightmill")


def _tell_costs(run: Run, key: str, pace: Pace, who: str) -> None:
    if pace.peak_bytes is not None:
        run.add(
            f"{key}_peak_gb",
            pace.peak_bytes / 1e9,
            "GB",
            f"the most that torch took; {who}, {pace.rows} at once",
        )
    if pace.joules_per_image is not None:
        what = f"the GPU's own counter; {who}, {pace.rows} at once"
        run.add(f"{key}_joules_per_image", pace.joules_per_image, "J/image", what)


def _company(run: Run, ours: Ours, pace: Pace, cost: Cost) -> None:
    flop_per_s = pace.images_per_s * cost.image(ours.architecture)
    steps, longest = ((2, 3), 4) if run.is_tiny else (STEPS, 8)

    def identical() -> None:
        run.add("identical_hashes", *_in(identical_hashes(ours, pace.rows, longest), "of pictures"))

    def shuffled() -> None:
        found = shuffled_per_alike(ours, pace.rows, steps, cost.unet, flop_per_s, run.budget.left() / 8)
        run.add("shuffled_per_alike", *_in(found, "ratio"))

    run.budget.attempt("identical hashes", identical)
    run.budget.attempt("a shuffled manifest", shuffled)


def _decoding(run: Run, architecture: Architecture, vae: Any, rows: int, cost: Cost) -> None:
    found = measure_decoding(architecture, vae, run.device_of(architecture), rows, run.compile_options)
    key, flop = architecture.key, f"{cost.decode / 1e12:.3g} TFLOP an image"
    told = f"diffusers' VAE, {rows} at once: {found.stock_ms:.3g} ms/image"
    run.add(f"{key}_decode_ms", found.ours_ms, "ms/image", f"latents to pixels on the host; {flop}")
    run.add(f"{key}_decode_per_stock", found.stock_ms / found.ours_ms, "ratio", told)


def _in(found: tuple[float, str], unit: str) -> tuple[float, str, str]:
    return found[0], unit, found[1]


def _diffusers(run: Run, architecture: Architecture, ours: Pace, until: float) -> None:
    stock = Stock(architecture, run.device)
    alone = _stock_pace(run, stock, 1, until)
    assert alone is not None
    _compare(run, architecture, ours, alone, "stock_1")
    equal = _stock_pace(run, stock, ours.rows, until)
    if equal is None:
        return
    _compare(run, architecture, ours, equal, "stock_equal")
    best = _quickest_stock(run, stock, equal, until)
    if best is not equal:
        _compare(run, architecture, ours, best, "stock_best")


def _quickest_stock(run: Run, stock: Stock, equal: Pace, until: float) -> Pace:
    """Return diffusers' fastest pace among the batch sizes tried with nightmill, as time allows."""
    best = equal
    for rows in run.rows or stock.architecture.rows:
        if rows == equal.rows or run.budget.left(until) < 2 * rows / equal.images_per_s:
            continue
        pace = _stock_pace(run, stock, rows, until)
        if pace is not None and pace.images_per_s > best.images_per_s:
            best = pace
    return best


def _stock_pace(run: Run, stock: Stock, rows: int, until: float) -> Pace | None:
    allowance_s = run.budget.allowance(until)
    run.device.give_back()
    try:
        return measure_pace(stock.at(rows), rows, stock.architecture.steps, run.device.name, allowance_s)
    except _NO_MEMORY:
        run.budget.leave_out(f"diffusers, {rows} at once", _TOO_LITTLE)
        return None


def _compare(run: Run, architecture: Architecture, ours: Pace, stock: Pace, name: str) -> None:
    key, precision = architecture.key, "float16" if run.device.name.startswith("cuda") else "float32"
    what = f"diffusers' pipeline, {precision}, {architecture.sampler}, batch {stock.rows}"
    run.add(f"{key}_{name}_images_per_s", stock.images_per_s, "images/s", f"{what}; {stock.how}")
    run.add(
        f"{key}_per_{name}",
        ours.images_per_s / stock.images_per_s,
        "ratio",
        f"{what}: {stock.images_per_s:.3g} images/s; nightmill, {ours.rows} at once",
    )
    _tell_costs(run, f"{key}_{name}", stock, what)
