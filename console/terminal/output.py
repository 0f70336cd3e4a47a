"""Console output: results go to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.mask_passwords_and_escape_text import visible


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


# Users write `:fox:` literally: rich must not replace it by an emoji.
out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if _is_terminal() else 100_000)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print one JSON document to stdout."""
    print_line(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def print_line(text: str) -> None:
    """Print one line of data to stdout, unchanged; on a terminal, control characters are made visible."""
    sys.stdout.write((visible(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a message for the user to stderr."""
    err.print(escape(visible(text)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table to stdout; one line per row unless stdout is a terminal."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(escape(visible("" if cell is None else " ".join(str(cell).split()))) for cell in row))
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as printed:
        out.print(table)
    for line in printed.get().splitlines():
        out.out(line.rstrip())  # cells are as wide as the widest of their column


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one per line."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        out.print(f"[bold]{name:<{width}}[/bold]  {escape(visible(str(value)))}")


def lane_cells(lane: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the table cells of a lane: model, mode, LoRAs, size, upscaling."""
    size = f"{lane['width']}x{lane['height']}" if lane["width"] else "its own"
    return lane["model"], lane["mode"], lane["lora"], size, lane["upscale"] or ""


def counted(counts: Mapping[str, int]) -> str:
    """Format counts by name, as in: 3 done, 1 failed."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def plural(count: int, thing: str, things: str = "") -> str:
    """Format a number of things: 1 job, 2,000 jobs; `things` where an s isn't enough."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {things or thing + 's'}"


def line_sum(lines: Mapping[str, int]) -> str:
    """Format the counts of a manifest's lines, as in: 5 = 3 rows + 1 rejected + 1 header."""
    parts = " + ".join(f"{count:,} {name}" for name, count in lines.items() if name != "read" and count)
    return f"{lines['read']:,} = {parts or '0 rows'}"


def short_said(batch: str, short: Mapping[str, int] | None) -> str:
    """Say what a batch lacks of its target; empty if it lacks nothing."""
    if not short or not short["images"]:
        return ""
    lacking = f"{plural(short['images'], 'image')} of {plural(short['values'], 'value')}"
    return f"the target is short by {lacking}: `nightmill targets {batch}` shows which"


def seeds_said(source: str, batch_seed: int) -> str:
    """Say what the seeds of rows without their own depend on."""
    of_rows = "their ids" if source == "id" else "their numbers in the manifest"
    return f"of rows without one by {of_rows}, batch seed {batch_seed}"


def duration(seconds: float | None) -> str:
    """Format seconds: 42s, 3m05s, 7h12m, 2d07h; unknown: ?."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 2 * 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def size(count: float) -> str:
    """Format bytes, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
