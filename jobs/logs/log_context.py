"""What this process is working on, for all its log lines: worker, batch and lane."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

FIELDS = ("worker", "batch", "lane", "job", "lease")
"""Fields of a JSON log line that are known only now and then; `job` and `lease` come with single lines."""

# Of the process and not of a thread: one process works in one lane, in several threads.
_known: dict[str, object] = {}


def known() -> Mapping[str, object]:
    """Return the fields that are known now."""
    return _known


def note(**fields: object) -> None:
    """Add fields for as long as the process lives."""
    _known.update(fields)


@contextmanager
def noted(**fields: object) -> Iterator[None]:
    """Add fields within the block."""
    _known.update(fields)
    try:
        yield
    finally:
        for name in fields:
            _known.pop(name, None)
