"""`python -m tests.lifecycle_page`: write the table of job states into docs/lifecycle.md."""

import re

from jobs.states import JobState
from tests.paths import ROOT

PAGE = ROOT / "docs" / "lifecycle.md"

_HEAD = "| state | the job | open | `retry` queues it again | has an error |\n|---|---|---|---|---|\n"
_TABLE = re.compile(r"\| state \| the job .*?\n\n", re.DOTALL)


def table() -> str:
    """The table, as Markdown, with the blank line after it."""
    return _HEAD + "".join(map(_line, JobState)) + "\n"


def in_page(page: str) -> str:
    """The table that the page has."""
    found = _TABLE.search(page)
    assert found is not None
    return found[0]


def _line(state: JobState) -> str:
    marks = (state.rules.is_open, state.rules.is_retryable, state.rules.has_error)
    return f"| `{state}` | {state.doc} | {' | '.join('yes' if mark else '' for mark in marks)} |\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(in_page(text), table()), encoding="utf-8")
