"""`python -m bench.gpu`: nightmill on a GPU, compared with diffusers' pipeline and the GPU's own limit.

It needs torch, diffusers, transformers and pydantic, no network, and no weights: they are random, in the real
architectures.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from tempfile import gettempdir
from types import FrameType

from bench.gpu.architectures import ARCHITECTURES
from bench.gpu.everything import BUDGET_S, measure_gpu
from bench.harness.results import Result
from bench.harness.results_table import print_result
from models.errors import ModelError
from models.runtime.device import pick_device


def main() -> int:
    """Measure, print a table, save JSON; 1 if something failed, 2 for wrong use."""
    options = _options()
    # Compiled code is reused by the worker and by the next run.
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", str(Path(gettempdir()) / f"nightmill-compiled-{os.getuid()}")
    )
    signal.signal(signal.SIGTERM, _leave)

    def save(result: Result) -> None:
        if options.json:
            options.json.write_text(json.dumps(result.report(), indent=2) + "\n", encoding="utf-8")

    result, has_failed = measure_gpu(
        options.device,
        is_tiny=options.tiny,
        names=options.models,
        rows=options.rows,
        compile=options.compile,
        budget_s=options.budget_s,
        save=save,
    )
    print_result(result)
    return 1 if has_failed else 0


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(prog="python -m bench.gpu", description=main.__doc__)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="save the figures there too")
    arguments.add_argument(
        "--models", default=",".join(ARCHITECTURES), help="of %(default)s (the default), with commas between"
    )
    arguments.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu; default: cuda")
    arguments.add_argument(
        "--rows", default="", help="images at once to try, such as 8,16; default: by model"
    )
    arguments.add_argument(
        "--compile", default="auto", choices=("auto", "on", "off"), help="as NIGHTMILL_COMPILE; default: auto"
    )
    arguments.add_argument("--tiny", action="store_true", help="tiny networks: does it run?")
    arguments.add_argument(
        "--budget-s", type=float, default=BUDGET_S, help="seconds that it may take; default: %(default)g"
    )
    options = arguments.parse_args()
    wanted = options.models.split(",")
    if unknown := [name for name in wanted if name not in ARCHITECTURES]:
        arguments.error(f"there is no model {unknown[0]!r}; there are {', '.join(ARCHITECTURES)}")
    options.models = [name for name in ARCHITECTURES if name in wanted]
    options.rows = [int(rows) for rows in options.rows.split(",") if rows]
    try:
        options.device = pick_device(options.device, precision="bfloat16")
    except ModelError as error:
        arguments.error(f"{error}; `--tiny --device cpu` tries it without a GPU")
    if options.device.name == "cpu" and not options.tiny:
        arguments.error("real sizes need a GPU; `--tiny --device cpu` tries it without one")
    return options


def _leave(number: int, _frame: FrameType | None) -> None:
    """Exit, so that the worker's services are stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
