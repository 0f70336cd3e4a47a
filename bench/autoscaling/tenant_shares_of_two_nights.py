"""Three tenants whose batches fill two nights: what share of the workers each gets, and when images are finished."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from matplotlib import dates
from matplotlib.figure import Figure
from sqlalchemy import Engine, text

from bench.autoscaling.night_scenario import Batch, Night, clock
from bench.autoscaling.run_simulated_night import Simulation
from jobs.db.engine import database_time, run
from jobs.queue.sum_usage import usage_by

WEIGHTS = {"ada": 1, "bob": 2, "eve": 3}
WORKERS = 6
OPENS, CLOSES = "22:00", "06:00"

FAIR = Night(
    batches=(
        Batch("portraits", "19:00", "ada", 2_000, 20, window=(OPENS, CLOSES)),
        Batch("rooms", "19:30", "bob", 3_300, 20, window=(OPENS, CLOSES)),
        Batch("posters", "20:00", "eve", 4_700, 20, window=(OPENS, CLOSES)),
    ),
    weights={tenant: weight for tenant, weight in WEIGHTS.items() if weight > 1},
    ends="07:00",
    max_workers=WORKERS,
    tick_s=300,
)
"""10,000 images of 20 s: more than six workers finish in a night of eight hours."""

_FINISHED = text("""
    SELECT lanes.tenant, jobs.finished_at FROM jobs JOIN lanes ON lanes.id = lane_id
    WHERE finished_at IS NOT NULL ORDER BY finished_at
""")


_IS_LEFT = text("SELECT EXISTS (SELECT FROM lanes WHERE ended_at IS NULL) AS is_left")


@dataclass(frozen=True)
class FairRecord:
    """What two nights brought: shares of the first one's worker seconds, and when whose images were finished."""

    shares: dict[str, float]
    finished: list[tuple[str, datetime]]

    def deviation(self) -> float:
        """Return the largest deviation of a share from the one by weights, relative to that one."""
        total = sum(WEIGHTS.values())
        return max(abs(self.shares[tenant] * total / weight - 1) for tenant, weight in WEIGHTS.items())

    def outside(self) -> list[tuple[str, datetime]]:
        """Return images that were finished while the window was closed."""
        nights = [(clock(OPENS) + timedelta(days=n), clock(CLOSES) + timedelta(days=n)) for n in (0, 1)]
        return [one for one in self.finished if not any(begin <= one[1] <= end for begin, end in nights)]


def scaled(night: Night, factor: float) -> Night:
    """Return the night with so many times the images, each taking as much less time."""
    batches = (
        replace(batch, images=round(batch.images * factor), image_s=batch.image_s / factor)
        for batch in night.batches
    )
    return replace(night, batches=tuple(batches))


def run_fair_nights(engine: Engine, night: Night = FAIR) -> FairRecord:
    """Run two nights with WORKERS workers on an empty database."""
    simulation = Simulation(engine, night, _workers_at_night)
    simulation.run()
    used = {use["tenant"]: use["worker_s"] for use in usage_by(engine, "tenant")}
    shares = {tenant: seconds / sum(used.values()) for tenant, seconds in used.items()}
    simulation.run_on(clock(night.ends) + timedelta(days=1))
    return FairRecord(shares, [(row.tenant, row.finished_at) for row in run(engine, _FINISHED, {})])


def _workers_at_night(engine: Engine) -> int:
    """Return WORKERS while the window is open and work is left, and as long before as a worker takes to start."""
    now = database_time(engine)
    begin, end = clock(OPENS) - timedelta(seconds=FAIR.start_s), clock(CLOSES)
    nights = ((begin + timedelta(days=n), end + timedelta(days=n)) for n in (0, 1))
    is_night = any(begin <= now < end for begin, end in nights)
    return WORKERS if is_night and run(engine, _IS_LEFT, {})[0].is_left else 0


def plot_fair_nights(record: FairRecord, night: Night, path: Path) -> None:
    """Draw the finished images of each tenant over both nights, as a PNG."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    for number in (0, 1):
        begin, end = (_number(clock(text) + timedelta(days=number)) for text in (OPENS, CLOSES))
        axes.axvspan(begin, end, color="#eef2f7", zorder=0)
    for number, batch in enumerate(night.batches):
        times = [_number(at) for tenant, at in record.finished if tenant == batch.tenant]
        share = record.shares[batch.tenant]
        label = f"{batch.tenant}, weight {WEIGHTS[batch.tenant]}: {share:.1%} of the first night"
        axes.step(times, range(1, len(times) + 1), color=f"C{number}", where="post", label=label)
        axes.axhline(batch.images, color=f"C{number}", lw=0.6, ls=":")
    axes.set(ylabel="finished images", ylim=(0, None))
    axes.set_title(
        f"{sum(batch.images for batch in night.batches):,} images of three tenants, {WORKERS} workers, "
        f"window {OPENS}-{CLOSES} (shaded)",
        fontsize=11,
    )
    axes.legend(fontsize=9, loc="upper left")
    axes.xaxis_date()
    axes.xaxis.set_major_locator(dates.HourLocator(interval=3))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    figure.savefig(path, dpi=80)


def _number(moment: datetime) -> float:
    """Return a moment as matplotlib counts time."""
    return float(dates.date2num(moment))
