"""Remarks for the person who waits, on stderr."""

import sys


def note(text: str) -> None:
    """One line."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
