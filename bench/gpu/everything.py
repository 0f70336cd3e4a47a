"""All that `gpu` measures, the most important first, within a budget of time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figures import Figure, Result
from bench.gpu.architectures import ARCHITECTURES, SD_1_5, Architecture, tiny
from bench.gpu.budget import Budget
from bench.gpu.checkpoints import save_models
from bench.gpu.drawing import fresh
from bench.gpu.end_to_end import missing_packages, steady_rate
from bench.gpu.machine import this_gpu
from bench.gpu.model import measure_model
from bench.gpu.pace import Pace
from bench.gpu.run import Run
from models.device import Device

BUDGET_S = 540.0

_WAVES = 4
_FIRST_SHARE = 0.5
_END_TO_END = "end to end"


def measure_gpu(
    device: Device,
    *,
    is_tiny: bool,
    names: Sequence[str] = tuple(ARCHITECTURES),
    rows: Sequence[int] = (),
    budget_s: float = BUDGET_S,
    save: Callable[[Result], None] = lambda _: None,
) -> tuple[Result, bool]:
    """The figures of the architectures named, and whether a part failed; `save` is called with every new figure."""
    run = Run(device, Budget(budget_s), is_tiny=is_tiny, rows=rows)
    result = Result("gpu", this_gpu(device.name), run.figures)
    run.report = lambda: save(result)
    _measure_everything(run, [ARCHITECTURES[name] for name in names])
    return result, run.budget.has_failed


def _measure_everything(run: Run, architectures: Sequence[Architecture]) -> None:
    """Ceiling, models and end to end, as far as time goes; the figure `left_out` says what wasn't measured and why."""
    run.budget.attempt("the ceiling", run.measure_ceiling)
    shares = _shares(len(architectures))
    in_company = next((found.name for found in architectures if not found.is_upscaler), None)
    for architecture, until in zip(architectures, shares, strict=True):
        built = tiny(architecture) if run.is_tiny else architecture
        pace = measure_model(run, built, until, in_company=architecture.name == in_company)
        if architecture is SD_1_5 and pace is not None:
            measure_end_to_end(run, built, pace)
    _say_what_is_missing(run)
    told = "; ".join(run.budget.left_out) or "nothing"
    run.figures["left_out"] = Figure(len(run.budget.left_out), "parts", told)
    run.report()


def _say_what_is_missing(run: Run) -> None:
    why = "nothing tells it here" if run.device.name.startswith("cuda") else "no GPU"
    for ending, what in (("_peak_gb", "peak memory"), ("_joules_per_image", "joules an image")):
        if not any(key.endswith(ending) for key in run.figures):
            run.budget.leave_out(what, why)


def _shares(count: int) -> list[float]:
    """Until which share of the time each model may be measured: the first half is the first one's."""
    if count == 1:
        return [0.7]
    return [_FIRST_SHARE, *(0.95 - 0.15 * (count - 1 - number) for number in range(1, count))]


def measure_end_to_end(run: Run, architecture: Architecture, bare: Pace) -> None:
    """`nightmill run` beside the engine alone; left out where something that it needs isn't installed."""
    if missing := missing_packages():
        run.budget.leave_out(_END_TO_END, f"not installed: {', '.join(missing)}")
        return

    def end_to_end() -> None:
        fresh()
        images = bare.rows * (12 if run.is_tiny else _WAVES)
        with TemporaryDirectory(prefix="nightmill-bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            save_models(folder / "models", architecture, run.device, is_tiny=run.is_tiny)
            fresh()
            rate = steady_rate(folder, run.device.name, images, bare.rows, run.budget.left())
        what = (
            f"`nightmill run` of {images} images with private services, from the first {bare.rows} stored on"
        )
        run.add("end_to_end_images_per_s", rate, "images/s", what)
        told = f"the engine alone, {bare.rows} at once: {bare.images_per_s:.3g} images/s"
        run.add("end_to_end_per_bare", rate / bare.images_per_s, "ratio", told)

    run.budget.attempt(_END_TO_END, end_to_end, needs_s=run.start_s + (0 if run.is_tiny else 30))
