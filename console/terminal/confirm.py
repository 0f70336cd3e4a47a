"""Ask for confirmation before something is deleted or ended."""

import sys

import typer

from console.terminal.output import err
from jobs.errors import UsageError


def ask(what: str, *, is_for_good: bool = True) -> None:
    """Ask for confirmation and abort without it; `what` completes "this …". Raises UsageError without a terminal."""
    said = f"{what} for good" if is_for_good else what
    if not sys.stdin.isatty():
        raise UsageError(f"this {said}: say --yes where nobody can be asked")
    err.print(f"This {said}.", markup=False)
    typer.confirm("Sure?", abort=True, err=True)
