"""All measurements of `gpu`, the most important first, within a time budget."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.gpu.architectures import ARCHITECTURES, SD_1_5, Architecture, tiny
from bench.gpu.budget import Budget
from bench.gpu.checkpoints import save_models
from bench.gpu.drawing import fresh
from bench.gpu.end_to_end import STOPPING_S, missing_packages, steady_rate
from bench.gpu.model import measure_model
from bench.gpu.pace import Pace
from bench.gpu.run import Run
from bench.harness.gpu_machine import this_gpu
from bench.harness.results import Figure, Result
from models.runtime.device import Device

BUDGET_S = 540.0

_WAVES = 4
_UNTIL = (0.4, 0.6, 0.9, 0.98)
"""Shares of the time at which each model's measurement ends, in order; end to end comes after the second."""
_END_TO_END = "end to end"


def measure_gpu(
    device: Device,
    *,
    is_tiny: bool,
    names: Sequence[str] = tuple(ARCHITECTURES),
    rows: Sequence[int] = (),
    compile: str = "auto",
    budget_s: float = BUDGET_S,
    save: Callable[[Result], None] = lambda _: None,
) -> tuple[Result, bool]:
    """Return the figures of the architectures named, and whether a part failed; `save` is called with each figure."""
    run = Run(device, Budget(budget_s), is_tiny=is_tiny, rows=rows, compile=compile)
    result = Result("gpu", this_gpu(device.name), run.figures)
    run.report = lambda: save(result)
    _measure_everything(run, [ARCHITECTURES[name] for name in names])
    return result, run.budget.has_failed


def _measure_everything(run: Run, architectures: Sequence[Architecture]) -> None:
    """Measure ceiling, models and end to end, as time allows; the figure `left_out` lists what wasn't measured."""
    run.budget.attempt("the ceiling", run.measure_ceiling)
    in_company = next((found for found in architectures if not found.is_upscaler), None)
    bare: Pace | None = None
    for number, architecture in enumerate(architectures):
        built = tiny(architecture) if run.is_tiny else architecture
        pace = measure_model(run, built, _UNTIL[number], in_company=architecture is in_company)
        bare = pace if architecture is SD_1_5 else bare
        if bare is not None and number == min(1, len(architectures) - 1):
            measure_end_to_end(run, tiny(SD_1_5) if run.is_tiny else SD_1_5, bare)
    _say_what_is_missing(run)
    told = "; ".join(run.budget.left_out) or "nothing"
    run.figures["left_out"] = Figure(len(run.budget.left_out), "parts", told)
    run.report()


def _say_what_is_missing(run: Run) -> None:
    why = "nothing tells it here" if run.device.name.startswith("cuda") else "no GPU"
    for ending, what in (("_peak_gb", "peak memory"), ("_joules_per_image", "joules an image")):
        if not any(key.endswith(ending) for key in run.figures):
            run.budget.leave_out(what, why)


def measure_end_to_end(run: Run, architecture: Architecture, bare: Pace) -> None:
    """Measure `nightmill run` against the engine alone; left out where a package that it needs is missing."""
    if missing := missing_packages():
        run.budget.leave_out(_END_TO_END, f"not installed: {', '.join(missing)}")
        return

    def end_to_end() -> None:
        fresh()
        images = bare.rows * (12 if run.is_tiny else _WAVES)
        with TemporaryDirectory(prefix="nightmill-bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            save_models(folder / "models", architecture, run.device_of(architecture), is_tiny=run.is_tiny)
            fresh()
            limit_s = max(10.0, run.budget.left() - STOPPING_S)
            # With so few images, a worker would not compile by default.
            compile = "on" if run.compile_options.compiled else "off"
            given = {"device": run.device.name, "batch_size": str(bare.rows), "compile": compile}
            rate = steady_rate(folder, given, images, bare.rows, limit_s)
        what = (
            f"`nightmill run` of {images} images with private services, from the first {bare.rows} stored on"
        )
        run.add("end_to_end_images_per_s", rate, "images/s", what)
        told = f"the engine alone, {bare.rows} at once: {bare.images_per_s:.3g} images/s"
        run.add("end_to_end_per_bare", rate / bare.images_per_s, "ratio", told)

    run.budget.attempt(_END_TO_END, end_to_end, needs_s=run.start_s + (0 if run.is_tiny else 30))
