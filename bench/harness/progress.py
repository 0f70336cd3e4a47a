"""Progress messages on stderr."""

import sys


def note(text: str) -> None:
    """Print one line."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
