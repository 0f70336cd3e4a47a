"""`python -m bench.autoscaling [--plot FILE]`: simulate a night of batches, and how the number of workers follows."""

import argparse
import json
from pathlib import Path
from typing import NoReturn

from bench.autoscaling.night_scenario import NIGHT
from bench.autoscaling.run_simulated_night import Record, Simulation
from bench.harness.services import engine_on, open_place

LARGEST_DEVIATION = 0.05


def main() -> None:
    """Print when each batch was finished and what scaling cost; exit code 1 if a deadline was missed."""
    arguments = argparse.ArgumentParser(prog="python -m bench.autoscaling", description=__doc__)
    arguments.add_argument("--plot", type=Path, metavar="FILE", help="draw the night as a PNG")
    arguments.add_argument("--fair", action="store_true", help="two nights of three tenants instead")
    options = arguments.parse_args()
    if options.fair:
        _fair(options.plot)
    with open_place() as place, place.database("night") as settings, engine_on(settings.database) as engine:
        record = Simulation(engine, NIGHT).run()
    if options.plot:
        from bench.autoscaling.draw_simulated_night import plot  # noqa: PLC0415 - imports matplotlib

        plot(record, NIGHT, options.plot)
    print(json.dumps(report(record), indent=2))
    raise SystemExit(bool(record.late(NIGHT)))


def _fair(path: Path | None) -> NoReturn:
    """Print the tenants' shares of two nights; exit code 1 if one is off by more than a twentieth."""
    from bench.autoscaling.tenant_shares_of_two_nights import FAIR, plot_fair_nights, run_fair_nights  # noqa: PLC0415 - matplotlib

    with open_place() as place, place.database("fair") as settings, engine_on(settings.database) as engine:
        record = run_fair_nights(engine)
    if path:
        plot_fair_nights(record, FAIR, path)
    figures = {
        "shares": {tenant: round(share, 4) for tenant, share in record.shares.items()},
        "largest_deviation": round(record.deviation(), 4),
        "finished_outside_the_window": len(record.outside()),
        "images": len(record.finished),
    }
    print(json.dumps(figures, indent=2))
    raise SystemExit(record.deviation() > LARGEST_DEVIATION or bool(record.outside()))


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
