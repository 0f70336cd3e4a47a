"""Choosing batches by name, tenant, state, tags and age: filters compiled to one SQL condition."""

import re
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.selection.batch_state_as_sql import COUNTS, state_sql
from jobs.db.engine import run
from jobs.job_dataclasses import BatchId
from jobs.states import BatchState

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789._-"
"""All that the name of a batch may hold."""
_NEVER = "/"
_TOKEN = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class BatchFilter:
    """What is asked of batches: those that meet every condition are chosen; None and () ask for nothing."""

    names: tuple[str, ...] = ()
    """Shell patterns, of which one has to match: `*`, `?`, `[ab]`, `[!ab]`."""
    tenant: str | None = None
    """Whose jobs the batch has, beside others' perhaps."""
    states: tuple[BatchState, ...] = ()
    tags: tuple[str, ...] = ()
    """All of which it has."""
    ended_before_s: float | None = None
    """How many seconds ago it has ended, at least."""
    since: datetime | None = None
    """When it was submitted at the earliest."""
    is_open_or_ended_within_s: float | None = None
    """Whether it may have unfinished jobs, or has ended less than so many seconds ago."""
    has_jobs: bool = False
    """Whether it isn't archived, or only in part."""

    def condition(self) -> tuple[str, dict[str, Any]]:
        """Return the SQL condition on the row `b` of `batches`, and the values of its parameters."""
        tenant_s = "EXISTS (SELECT FROM lanes WHERE batch_id = b.id AND tenant = :tenant)"
        state_is = f"""(SELECT {state_sql("b", "c")} FROM (
            SELECT {COUNTS} FROM job_counts WHERE batch_id = b.id) AS c) = ANY (CAST(:states AS text[]))"""
        has_jobs = "(b.archived_at IS NULL OR EXISTS (SELECT FROM jobs WHERE batch_id = b.id))"
        ended = "b.ended_at <= now() - make_interval(secs => :ended_before_s)"
        within_s = self.is_open_or_ended_within_s
        recent = "coalesce(b.ended_at > now() - make_interval(secs => :within_s), true)"
        asked: list[tuple[bool, str, dict[str, Any]]] = [
            (bool(self.names), "b.name ~ :names", {"names": _any_pattern(self.names)}),
            (self.since is not None, "b.created_at >= :since", {"since": self.since}),
            (bool(self.tags), "b.tags @> CAST(:tags AS text[])", {"tags": list(self.tags)}),
            (self.tenant is not None, tenant_s, {"tenant": self.tenant}),
            (self.has_jobs, has_jobs, {}),
            (self.ended_before_s is not None, ended, {"ended_before_s": self.ended_before_s}),
            (within_s is not None, recent, {"within_s": within_s}),
            (bool(self.states), state_is, {"states": [str(state) for state in self.states]}),
        ]
        given = [(condition, values) for is_asked, condition, values in asked if is_asked]
        parameters = {name: value for _, values in given for name, value in values.items()}
        return " AND ".join(condition for condition, _ in given) or "true", parameters


def find_batches(engine: Engine, wanted: BatchFilter) -> list[BatchId]:
    """Return the batches that meet the filter, oldest first."""
    condition, values = wanted.condition()
    statement = text(f"SELECT b.id FROM batches AS b WHERE {condition} ORDER BY b.id")
    return [BatchId(row.id) for row in run(engine, statement, values)]


def glob_to_regex(pattern: str) -> str:
    """Return PostgreSQL's regular expression of a shell pattern for batch names.

    A bracket becomes the list of those characters of names that it matches, so that nothing of it has to be escaped.
    """
    return "".join(_translated(token) for token in _TOKEN.findall(pattern))


def _translated(token: str) -> str:
    if len(token) > 1:
        matched = "|".join(re.escape(letter) for letter in _LETTERS if fnmatchcase(letter, token))
        return f"({matched or _NEVER})"
    if token in _LETTERS:
        return re.escape(token)
    return {"*": ".*", "?": "."}.get(token, _NEVER)


def _any_pattern(patterns: tuple[str, ...]) -> str:
    return f"^({'|'.join(map(glob_to_regex, patterns))})$"
