"""How quickly this machine multiplies matrices: measured in under a second, and kept so that plans agree."""

import json
import time
from pathlib import Path

from jobs.forecast.work_kinds_and_ranges import Range
from jobs.settings import Settings
from models.optional_packages import is_installed

KEPT_S = 7 * 86_400
UNCERTAINTY = 2.0
"""A render may take so many times as long, or as short, as the models' arithmetic says."""


def image_time(settings: Settings, gflop: float) -> Range | None:
    """Return what an image of so much arithmetic may take here; None without the worker's packages."""
    gflops = _kept(settings) or _measured(settings)
    if gflops is None:
        return None
    seconds = gflop / gflops
    return Range(seconds / UNCERTAINTY, seconds * UNCERTAINTY)


def _file(settings: Settings) -> Path:
    return settings.data_dir / "measured_speed.json"


def _kept(settings: Settings) -> float | None:
    try:
        kept = json.loads(_file(settings).read_text(encoding="utf-8"))
        is_fit = kept["device"] == settings.device and abs(time.time() - kept["at"]) < KEPT_S
        return float(kept["gflops"]) if is_fit else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(settings: Settings) -> float | None:
    if not is_installed("worker"):
        return None
    from models.runtime.device import pick_device  # noqa: PLC0415 - torch takes a second to import
    from models.runtime.matmul_benchmark import usable_gflops  # noqa: PLC0415

    gflops = round(usable_gflops(pick_device(settings.device)), 1)
    if settings.data_dir.is_dir():  # a plan makes no installation
        kept = {"device": settings.device, "gflops": gflops, "at": int(time.time())}
        try:
            _file(settings).write_text(json.dumps(kept), encoding="utf-8")
        except OSError:
            return gflops  # measured again next time
    return gflops
