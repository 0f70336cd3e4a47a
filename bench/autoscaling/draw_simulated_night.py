"""Draw a simulated night: workers by what they do, those wanted, and each batch's unfinished images."""

from datetime import timedelta
from pathlib import Path

from matplotlib import dates
from matplotlib.figure import Figure

from bench.autoscaling.night_scenario import Night, clock
from bench.autoscaling.run_simulated_night import Record

COLOURS = {"busy": "#2a7f4f", "idle": "#e0b13c", "starting": "#9fb8cf"}


def plot(record: Record, night: Night, path: Path) -> None:
    """Write the figure as a PNG."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    workers, images = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    times = [tick.at for tick in record.ticks]
    stacks = {name: [getattr(tick, name) for tick in record.ticks] for name in COLOURS}
    workers.stackplot(
        times, *stacks.values(), labels=list(stacks), colors=list(COLOURS.values()), step="post"
    )
    workers.step(times, [tick.wanted for tick in record.ticks], "k", where="post", lw=1, label="wanted")
    workers.step(
        times,
        [tick.needed for tick in record.ticks],
        "r:",
        where="post",
        lw=1,
        label="bare minimum for the deadlines",
    )
    for moment, _ in record.killed:
        workers.axvline(moment, color="#b03030", lw=0.8, ls="--")
    workers.set(ylabel="workers", ylim=(0, night.max_workers + 1.5))
    workers.set_title("A simulated night: workers of one pool (dashed: a machine is taken away)", fontsize=11)
    workers.legend(ncols=5, fontsize=8, loc="upper right")
    for number, batch in enumerate(night.batches):
        left = [100 * tick.left.get(batch.name, 0) / batch.images for tick in record.ticks]
        colour = f"C{number % 10}"
        images.plot(times, left, color=colour, lw=1.2, label=f"{batch.name} ({batch.tenant}, {batch.images})")
        if batch.deadline:
            images.plot(clock(batch.deadline), 0, "v", color=colour, ms=9, clip_on=False, zorder=5)
    images.set(ylabel="unfinished, % of the batch", ylim=(0, 102))
    images.set_title("Batches (triangle: deadline)", fontsize=11)
    images.legend(ncols=1, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    images.xaxis.set_major_locator(dates.HourLocator())
    images.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    images.set_xlim(times[0], times[-1] + timedelta(minutes=1))
    figure.savefig(path, dpi=80)
