"""Ask for confirmation before something is deleted permanently."""

import sys

import typer

from console.terminal.output import err
from jobs.errors import UsageError


def ask(what: str) -> None:
    """Ask for confirmation and abort without it; `what` completes "this …". Raises UsageError without a terminal."""
    if not sys.stdin.isatty():
        raise UsageError(f"this {what} for good: say --yes where nobody can be asked")
    err.print(f"This {what} for good.", markup=False)
    typer.confirm("Sure?", abort=True, err=True)
