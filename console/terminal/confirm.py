"""Asking before something is gone for good."""

import sys

import typer

from console.terminal.output import err
from jobs.errors import UsageError


def ask(what: str) -> None:
    """Go on only if the person says so; `what` completes "this …". UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError(f"this {what} for good: say --yes where nobody can be asked")
    err.print(f"This {what} for good.", markup=False)
    typer.confirm("Sure?", abort=True, err=True)
