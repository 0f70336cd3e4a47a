"""`python -m bench.autoscaling [--plot FILE]`: simulate a night of batches, and how the number of workers follows."""

import argparse
import json
from pathlib import Path

from bench.autoscaling.simulated_night import NIGHT
from bench.autoscaling.simulation import Record, Simulation
from bench.harness.services import engine_on, open_place


def main() -> None:
    """Print when each batch was finished and what scaling cost; exit code 1 if a deadline was missed."""
    arguments = argparse.ArgumentParser(prog="python -m bench.autoscaling", description=__doc__)
    arguments.add_argument("--plot", type=Path, metavar="FILE", help="draw the night as a PNG")
    options = arguments.parse_args()
    with open_place() as place, place.database("night") as settings, engine_on(settings.database) as engine:
        record = Simulation(engine, NIGHT).run()
    if options.plot:
        from bench.autoscaling.plot import plot  # noqa: PLC0415 - imports matplotlib

        plot(record, NIGHT, options.plot)
    print(json.dumps(report(record), indent=2))
    raise SystemExit(bool(record.late(NIGHT)))


def report(record: Record) -> dict[str, object]:
    """Return the record's figures."""
    minutes = (record.ticks[1].at - record.ticks[0].at).total_seconds() / 60
    busy = sum(tick.busy for tick in record.ticks) * minutes
    return {
        "finished": {name: f"{end:%H:%M}" for name, end in record.finished.items()},
        "late": record.late(NIGHT),
        "killed_with_jobs": [held for _, held in record.killed],
        "stopped_while_busy": record.stopped_busy,
        "worker_hours": round(sum(tick.workers for tick in record.ticks) * minutes / 60, 1),
        "busy_hours": round(busy / 60, 1),
    }


if __name__ == "__main__":
    main()
