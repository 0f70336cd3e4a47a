"""Progress of long commands: a bar on a terminal, otherwise a line every 15 seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from console.terminal.output import duration, err, note
from console.terminal.schedule_text import clock
from jobs.batches.actions import BatchStatus
from jobs.states import FINISHED, BatchState, JobState

LINE_EVERY_S = 15


@contextmanager
def counting(verb: str, total: int | None = None, things: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show a counter and its rate, with a bar if the total is known.

    Without a terminal, prints a line every 15 seconds, even while the count doesn't change, as in a file of blank
    lines. Call the yielded function with the current count.
    """
    started = time.monotonic()
    bar = (BarColumn(30), TextColumn("{task.percentage:>3.0f}%")) if total else (SpinnerColumn(),)
    columns = (*bar, TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(verb, total=total)
        of_all = f" of {total:,}" if total else ""

        def tell(rows: int) -> None:
            rate = rows / max(time.monotonic() - started, 1e-3)
            told = f"{verb} {rows:,}{of_all} {things}, {_rate(rate)}"
            progress.update(task, completed=rows, description=told)

        with _lines(lambda: f"{progress.tasks[0].description} ({duration(time.monotonic() - started)})"):
            yield tell


def _rate(per_s: float) -> str:
    if per_s >= 10:
        return f"{per_s:,.0f}/s"
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{per_s * 60:.1f}/min"


@contextmanager
def _lines(text: Callable[[], str]) -> Iterator[None]:
    """Print a line every 15 seconds while the block runs, if stderr is not a terminal."""
    ended = threading.Event()

    def speak() -> None:
        while not ended.wait(LINE_EVERY_S):
            note(text())

    speaker = threading.Thread(target=speak, daemon=True, name="progress")
    if not err.is_terminal:
        speaker.start()
    try:
        yield
    finally:
        ended.set()
        if speaker.ident is not None:
            speaker.join()


class Watch:
    """Display the progress of one batch; call `show` repeatedly with its current status."""

    def __init__(self, progress: Progress | None, jobs: int) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=max(jobs, 1)) if progress else None
        self.next_line = time.monotonic() + LINE_EVERY_S
        self.waiting: str | None = None

    def show(self, status: BatchStatus) -> None:
        """Update the bar, or print a line every 15 seconds; report at once a problem that stops all workers."""
        if status.waiting != self.waiting:
            self.waiting = status.waiting
            note(f"{status.name}: {_waiting(status)}" if status.waiting else f"{status.name} goes on")
        if self.progress and self.task is not None:
            done = sum(status.counts.values()) - status.remaining
            self.progress.update(self.task, completed=done, description=summary(status))
        elif time.monotonic() >= self.next_line:
            self.next_line += LINE_EVERY_S
            note(f"{status.name}: {summary(status)}")


@contextmanager
def watching(jobs: int) -> Iterator[Watch]:
    """Show a bar over `jobs` on a terminal, lines elsewhere."""
    if not err.is_terminal:
        yield Watch(None, jobs)
        return
    columns = (
        BarColumn(30),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        yield Watch(progress, jobs)


def summary(status: BatchStatus) -> str:
    """Summarise a status in one line: counts, speed, time left."""
    counts = status.counts
    parts = [f"{counts['done']:,} done"]
    parts += [f"{counts[state]:,} {state}" for state in FINISHED if state != JobState.DONE and counts[state]]
    if status.remaining:
        parts += [f"{status.remaining:,} to go", *_pace(status)]
    return ", ".join(parts)


def _pace(status: BatchStatus) -> list[str]:
    if status.starts_at and not status.counts["running"]:
        return [f"waits until {clock(status.starts_at)}"]
    if status.waiting:
        return [_waiting(status)]
    if status.unhealthy:
        return [*_speed(status), f"{len(status.unhealthy)} unhealthy: {status.unhealthy[0].reason}"]
    return _speed(status)


def _waiting(status: BatchStatus) -> str:
    again = "; they try again by themselves" if status.unhealthy else ""
    return f"waiting: no worker can go on: {status.waiting}{again}"


def _speed(status: BatchStatus) -> list[str]:
    if status.state == BatchState.QUEUED and not status.images_per_s:
        return ["waiting for a worker"]
    return [f"{status.images_per_s:.2f} images/s", f"ETA {duration(status.eta_s)}"]
