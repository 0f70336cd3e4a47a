"""Broken twins: statements of `jobs.queue.transitions` with a guard taken out, for as long as a block lasts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from sqlalchemy import TextClause, text

from jobs.queue import transitions


@dataclass(frozen=True)
class Mutant:
    """A name, the attribute of `jobs.queue.transitions`, what its text must hold, and what stands there in the twin."""

    name: str
    statement: str
    old: str
    new: str

    def changed(self) -> Any:
        """The attribute with all its statements changed; a text that isn't there any more is said loudly."""
        found: list[str] = []
        changed = self._changed(getattr(transitions, self.statement), found)
        assert found, f"mutant {self.name!r}: {self.statement} no longer holds {self.old!r}"
        return changed

    def _changed(self, part: Any, found: list[str]) -> Any:
        if isinstance(part, TextClause):
            if self.old not in part.text:
                return part
            found.append(part.text)
            return text(part.text.replace(self.old, self.new))
        if isinstance(part, list | tuple):
            return type(part)(self._changed(item, found) for item in part)
        return part


@contextmanager
def mutated(*mutants: Mutant) -> Iterator[None]:
    """`jobs.queue.transitions` with these changes, one after the other."""
    with ExitStack() as stack:
        for mutant in mutants:
            stack.enter_context(patch.object(transitions, mutant.statement, mutant.changed()))
        yield


# The guard that suggests itself, and lets a worker through that was stopped while another took its job.
FINISHES_BY_STATE = (
    Mutant("complete by state", "_COMPLETE", "jobs.lease = given.lease", "jobs.state = 'running'"),
    Mutant(
        "fail by state",
        "_FAIL",
        "FROM given JOIN jobs USING (id, lease)",
        "FROM given JOIN jobs ON jobs.id = given.id AND jobs.state = 'running'",
    ),
    Mutant("block by state", "_BLOCK", "jobs.lease = given.lease", "jobs.state = 'running'"),
)
CLAIMS_UNLOCKED = Mutant("claim without a lock", "_CLAIMS", "FOR UPDATE SKIP LOCKED", "")
RESCUE_WAITS = Mutant(
    "rescue that waits for locks", "_RESCUE", "FOR UPDATE OF jobs SKIP LOCKED", "FOR UPDATE OF jobs"
)
RESCUE_STARVES = Mutant(
    "rescue that looks at the oldest alone",
    "_RESCUE",
    "ORDER BY lease_until LIMIT :limit FOR UPDATE",
    """AND jobs.id IN (SELECT id FROM jobs WHERE state = 'running' AND lease_until < now()
        ORDER BY lease_until LIMIT :limit) FOR UPDATE""",
)
