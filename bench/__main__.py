"""`python -m bench [NAME …]`: benchmarks, measured against limits of the same machine in the same run."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import FrameType

from bench.cpu import measure as measure_cpu
from bench.export.parquet_and_webdataset_speed import measure as measure_export
from bench.harness.machine import this_machine
from bench.harness.progress import note
from bench.harness.results import Figure, Result
from bench.harness.results_table import print_result
from bench.harness.services import Place, open_place
from bench.ingest import measure as measure_ingest
from bench.model_memory import measure as measure_memory
from bench.night_report_queries import measure as measure_report
from bench.provenance.measure_provenance import measure as measure_provenance
from bench.queue.claims_and_statuses import measure as measure_queue
from bench.watermark_robustness.measure_robustness import measure as measure_marks

Measure = Callable[[Place, bool], Mapping[str, Figure]]


def measure_shapes(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure how accurately the shapes models follow their prompts."""
    from bench.shapes import measure  # noqa: PLC0415 - imports torch, which other benchmarks don't need

    return measure(place, is_quick)


BENCHES: dict[str, Measure] = {
    "ingest": measure_ingest,
    "queue": measure_queue,
    "cpu": measure_cpu,
    "memory": measure_memory,
    "shapes": measure_shapes,
    "export": measure_export,
    "report": measure_report,
    "marks": measure_marks,
    "provenance": measure_provenance,
}
GPU = "gpu"
"""Runs only when it is named."""


def main() -> None:
    """Run the benchmarks named; if none is, all but `gpu`."""
    options = _options()
    signal.signal(signal.SIGTERM, _leave)
    results = run_benches(options.name or list(BENCHES), options.quick)
    if options.json:
        reports = [result.report() for result in results]
        sys.stdout.write(json.dumps(reports if len(reports) > 1 else reports[0], indent=2) + "\n")
        return
    for result in results:
        print_result(result)


def run_benches(names: Sequence[str], is_quick: bool) -> list[Result]:
    """Run benchmarks one after the other on shared services; each has its own databases."""
    results = []
    with open_place() if set(names) != {GPU} else nullcontext() as place:
        for name in names:
            note(f"{name}:")
            if place is None or name == GPU:
                results.append(run_gpu(is_quick))
            else:
                results.append(Result(name, this_machine(place.postgresql()), BENCHES[name](place, is_quick)))
        return results


def run_gpu(is_quick: bool) -> Result:
    """Run `python -m bench.gpu`'s benchmark; with `is_quick` it needs no GPU."""
    from bench.gpu.everything import measure_gpu  # noqa: PLC0415 - imports torch
    from models.errors import ModelError  # noqa: PLC0415
    from models.runtime.device import pick_device  # noqa: PLC0415

    try:
        device = pick_device("auto" if is_quick else "cuda", precision="bfloat16")
    except ModelError as error:
        sys.exit(f"{error}; `--quick` tries it without a GPU")
    return measure_gpu(device, is_tiny=is_quick)[0]


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    names = [*BENCHES, GPU]
    arguments.add_argument(
        "name", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all but {GPU}"
    )
    arguments.add_argument("--json", action="store_true", help="print JSON: one object, a list for several")
    arguments.add_argument(
        "--quick", action="store_true", help="small sizes: does it run? The figures mean little"
    )
    options = arguments.parse_args()
    for name in options.name:
        if name not in names:
            arguments.error(f"there is no benchmark {name!r}; there are {', '.join(names)}")
    return options


def _leave(number: int, _frame: FrameType | None) -> None:
    """Exit, so that the services are stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
