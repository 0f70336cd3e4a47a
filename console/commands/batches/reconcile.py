"""`nightmill reconcile`: what became of each row of a batch's manifest, and whether all of them are accounted for."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from console.command_options import Batch, Json, one_of
from console.session import session
from console.terminal.output import counted, line_sum, note, plural, print_facts, print_json
from console.terminal.write_row_outcomes import FORMATS, write_outcomes
from jobs.batches import actions
from jobs.batches.manifest_reconciliation import Outcome, RowOutcome, Sums, outcomes, sums
from jobs.errors import UsageError


def reconcile(
    batch: Batch,
    format_: Annotated[
        str | None,
        typer.Option("--format", help=f"a line for each row of the manifest: {', '.join(FORMATS)}"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="write them to a file")] = None,
    as_json: Json = False,
) -> None:
    """What became of each row of the manifest; exit 1 if the sums don't add up."""
    if format_ is not None:
        one_of("--format", format_, FORMATS)
    if as_json and format_ is not None and out is None:
        raise UsageError("--json and --format both write to standard output: --out FILE for the rows")
    if out is not None and format_ is None:
        raise UsageError(f"--out needs --format: {', '.join(FORMATS)}")
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        counts: Counter[Outcome] = Counter()
        rows = _counting(outcomes(open_session.engine, found), counts)
        if format_ is None:
            for _ in rows:
                pass
        else:
            write_outcomes(format_, rows, out)
        total = sums(open_session.engine, found.id)
    report = {"batch": found.name, "state": found.state} | total.report()
    by_outcome = {outcome.value: counts[outcome] for outcome in Outcome}
    problems = [*total.problems, *_miscounted(counts, total)]
    if as_json:
        print_json(
            report | {"outcomes": by_outcome, "problems": problems, "is_complete": not found.remaining}
        )
    elif format_ is None:
        print_facts(
            {
                "batch": found.name,
                "lines": line_sum(total.lines) if total.lines else "not counted",
                "rows": f"{total.rows:,} = {counted(by_outcome) or '0 rows'}",
                "jobs": f"{plural(total.jobs, 'job')}, {plural(total.images, 'image')}",
            }
        )
    for problem in problems:
        note(problem)
    if problems:
        raise typer.Exit(1)
    note("every row of the manifest is accounted for" + _unfinished(found.remaining))


def _counting(rows: Iterable[RowOutcome], counts: Counter[Outcome]) -> Iterator[RowOutcome]:
    for row in rows:
        counts[row.outcome] += 1
        yield row


def _miscounted(counts: Counter[Outcome], total: Sums) -> list[str]:
    if counts.total() == total.rows:
        return []
    return [f"{total.rows:,} rows were ingested, {counts.total():,} have an outcome"]


def _unfinished(remaining: int) -> str:
    return f"; {plural(remaining, 'job')} not finished" if remaining else ""
