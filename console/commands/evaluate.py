"""`nightmill evaluate`: CLIP score and prompt match of a batch, as figure and JSON."""

import json
from itertools import chain
from typing import Annotated, Any

import typer

from console.command_options import Batch, Json
from console.evaluation.measure_by_column import COLUMNS, measure
from console.evaluation.plot import draw
from console.evaluation.scorers import instruments_for
from console.session import Session, session
from console.terminal.output import note, plural, print_facts, print_json, print_table
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.errors import NightmillError, UsageError
from jobs.images.batch_images import images_by_model, meta_columns, pages_of
from jobs.manifest.columns.header import did_you_mean
from jobs.storage.open import ObjectStore
from models.errors import MissingPackagesError
from models.optional_packages import require


def evaluate(
    batch: Batch,
    by: Annotated[
        str, typer.Option(metavar="COLUMN", help="column that differs; any column of the manifest's own too")
    ] = "guidance_scale",
    to: Annotated[
        str | None, typer.Option(help="folder or s3://…; default: beside the batch's export")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="the CLIP to score by; default: of the model's card")
    ] = None,
    match: Annotated[
        bool | None,
        typer.Option(
            "--match/--no-match",
            help="judge by geometry whether pictures show their prompt; default: those of the shapes models",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """CLIP score and prompt match against a swept column, as figure and JSON."""
    require("worker")
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        made = images_by_model(open_session.engine, found.id)
        _check(open_session, found, made, by)
        instruments = instruments_for(open_session, found, list(made), model, match)
        records = chain.from_iterable(pages_of(open_session.engine, found.id))
        with counting("measuring", sum(made.values()), "pictures") as tell:
            measured = measure(records, by, instruments, tell)
        report: dict[str, Any] = {
            "batch": found.name,
            "model": ", ".join(made),
            "by": by,
            "clip_model": instruments.clip_model,
            "points": [point.report() for point in measured.sorted()],
            "altered": measured.altered,
            "remaining": found.remaining,
        }
        report |= _write(
            open_session.store(to) if to else open_session.claimed_store(found),
            "" if to else f"{found.folder}/",
            report,
        )
    if as_json:
        print_json(report)
    else:
        _show(report)


def _check(open_session: Session, found: BatchStatus, made: dict[str, int], by: str) -> None:
    if not made:
        raise NightmillError(
            f"batch {found.name} has no images yet: `nightmill status {found.name}` tells how far it is"
        )
    own = meta_columns(open_session.engine, found.id)
    if by not in COLUMNS and by not in own:
        raise UsageError(f"--by {by}: the images have no such column; {did_you_mean(by, [*COLUMNS, *own])}")


def _write(store: ObjectStore, prefix: str, report: dict[str, Any]) -> dict[str, str | None]:
    data = f"{prefix}evaluation.json"
    figure = _write_figure(store, f"{prefix}evaluation.png", report)
    body = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
    store.put(data, body.encode(), content_type="application/json")
    return {"figure": figure, "data": store.locate(data)}


def _write_figure(store: ObjectStore, key: str, report: dict[str, Any]) -> str | None:
    """Draw the figure and return where it is, or None where matplotlib isn't installed."""
    try:
        require("plots", "the figure needs")
    except MissingPackagesError as error:
        note(f"{error}; the data are written without it")
        return None
    pictures = sum(point["n"] for point in report["points"])
    title = f"{report['batch']}: {report['model']}, {plural(pictures, 'picture')}"
    store.put(key, draw(report["points"], report["by"], title), content_type="image/png")
    return store.locate(key)


def _show(report: dict[str, Any]) -> None:
    print_table(
        (report["by"], "pictures", "CLIP score", "95 %", "match their prompt", "95 %"),
        [
            (
                "none" if point["value"] in (None, "") else point["value"],
                f"{point['n']:,}",
                *_with_interval(point, "clip_score", "{:.2f}"),
                *_with_interval(point, "prompt_match", "{:.1%}"),
            )
            for point in report["points"]
        ],
    )
    print_facts(
        {
            "CLIP": report["clip_model"] or "none",
            "figure": report["figure"] or "none",
            "data": report["data"],
        }
    )
    if report["altered"]:
        note(f"{report['altered']:,} pictures were blackened or blurred and are left out")
    if report["remaining"]:
        note(f"{report['remaining']:,} jobs of {report['batch']} are not finished: evaluate again later")


def _with_interval(point: dict[str, Any], name: str, form: str) -> tuple[str, str]:
    value, interval = point[name], point[f"{name}_ci"]
    return (
        "" if value is None else form.format(value),
        "" if interval is None else " to ".join(form.format(end) for end in interval),
    )
