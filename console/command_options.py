"""Arguments and options shared by several commands, as typer annotations."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from jobs.errors import UsageError
from jobs.policy.time_windows import parse_past_moment
from jobs.setting_values.parse_length_of_time import parse_length
from jobs.states import NO_LIMIT

NONE = "none"
"""The value that takes back a limit, a window or a moment."""

Manifest = Annotated[
    str, typer.Argument(help="path, - or s3://…; .jsonl .json .csv .tsv .parquet .txt .yaml, also .gz .zst")
]
Out = Annotated[str | None, typer.Option(help="folder or s3://bucket/prefix for the batch")]
Model = Annotated[str | None, typer.Option(help="model of all rows")]
Name = Annotated[str | None, typer.Option(help="name of the batch; default: of the manifest")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a column of all rows, or a policy")
]
Map = Annotated[list[str] | None, typer.Option("--map", metavar="COLUMN=HEADER", help="prompt=Caption")]
Priority = Annotated[int | None, typer.Option(help="-1000 to 1000, higher first among the tenant's batches")]
Window = Annotated[
    str | None, typer.Option(metavar="WINDOW", help='when to work at it: "22:00-07:00 Europe/Berlin"')
]
OnEnd = Annotated[
    str | None,
    typer.Option(
        metavar="HOOK", help="told when the batch ends or is stopped: a command, mailto:ADDRESS, https://…"
    ),
]
NotBefore = Annotated[
    str | None, typer.Option(metavar="MOMENT", help='"18:00", "2026-11-22 18:00 Europe/Berlin"')
]
Deadline = Annotated[
    str | None, typer.Option(metavar="MOMENT", help="`status` warns when it is going to be missed")
]
Canary = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="the first N rows go ahead; too many bad ones pause the batch"),
]
Reuse = Annotated[
    str | None,
    typer.Option(metavar="on|off", help="copy images of the same inputs from other batches; default: on"),
]
Strict = Annotated[bool, typer.Option(help="a bad row stops everything, nothing is ingested")]
Format = Annotated[
    str | None, typer.Option("--input-format", help="of the manifest, when its name doesn't say")
]
ExportFormats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="export so while it renders, beside the images; repeat it for several",
    ),
]
Delimiter = Annotated[
    str | None, typer.Option(metavar="CHARACTER", help="between the cells of a table: ';', '|', tab")
]
Drop = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="leave out a column of the manifest")]
UniqueIds = Annotated[bool, typer.Option("--unique-ids", help="an id that comes twice stops everything")]
Onto = Annotated[
    str | None,
    typer.Option(metavar="BATCH", help="bring this batch to the manifest, whose rows are matched by id"),
]
KeepDropped = Annotated[
    bool, typer.Option("--keep-dropped", help="with --onto: keep images of rows that the manifest lacks")
]
Yes = Annotated[bool, typer.Option("--yes", help="don't ask above a million images")]
DontAsk = Annotated[bool, typer.Option("--yes", "-y", help="don't ask")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


Batch = Annotated[str, typer.Argument(help="name or number of a batch")]


def seconds(option: str, given: str | None, *, needs_unit: bool = False) -> float | None:
    """Return a length of time in seconds, written as "90", "90s", "5m", "7h50m" or "1d12h"; None for None.

    A number alone is seconds, unless `needs_unit`. Raises UsageError that names the option and the forms.
    """
    if given is None:
        return None
    try:
        return parse_length(given, needs_unit=needs_unit)
    except UsageError as error:
        raise UsageError(f"{option} {given}: {error}") from None


def since(option: str, given: str, now: datetime) -> datetime:
    """Return a moment in the past: an age such as 12h, a time such as 22:00, which was last, or a date with a time.

    Raises UsageError that names the option and the forms.
    """
    if re.fullmatch(r"(\d+[dhms])+|\d+(\.\d+)?", given):
        return now - timedelta(seconds=seconds(option, given, needs_unit=True) or 0)
    try:
        return parse_past_moment(given, now)
    except UsageError as error:
        raise UsageError(f"{option}: {error}. An age, as in 12h, is also possible") from None


def limit(option: str, given: str | None, what: str) -> int | None:
    """Return a limit of so many `what`, NO_LIMIT for "none", None if nothing is given; UsageError for the rest."""
    if given is None:
        return None
    if given == NONE:
        return NO_LIMIT
    if not given.isdecimal():
        raise UsageError(f"{option} {given}: a number of {what}, or `none`")
    return int(given)


def one_of(option: str, value: str, allowed: tuple[Any, ...]) -> Any:
    """Return the member of `allowed` that equals `value`; raise UsageError that names the option and what it takes."""
    if value not in allowed:
        raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
    return allowed[allowed.index(value)]
