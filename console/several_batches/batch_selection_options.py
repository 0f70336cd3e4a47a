"""The options by which commands choose batches: by name, by filters, or all; and the batches that are chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Engine

from console.command_options import one_of, seconds, since
from console.terminal.note_unknown_tenant import note_unknown_tenant
from console.terminal.output import note, plural
from jobs.batches import actions
from jobs.batches.selection.batch_filters import BatchFilter
from jobs.batches.status import BatchStatus, statuses
from jobs.batches.tags import check_tag
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.states import EVERYBODY, BatchState
from jobs.suggest_names_and_shorten_lists import some_of

MOST_NAMED = 20
"""So many batches are named in a message."""


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Filters of batches, as typed; those that meet all of them are chosen."""

    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="PATTERN", help="whose names match, as in 'trial-*'; may be repeated"),
    ] = None
    tenant: Annotated[str | None, typer.Option(help="that have jobs of this tenant")] = None
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="queued, running, paused, cancelled, done; repeatable"),
    ] = None
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="that have this tag; may be repeated")
    ] = None
    since: Annotated[
        str | None,
        typer.Option(metavar="AGE|MOMENT", help='submitted since then: 12h, 7d, "2026-11-22 18:00"'),
    ] = None

    def filter(self) -> BatchFilter:
        """Return what is asked for. Raises UsageError for a value that can't be."""
        if self.tenant == EVERYBODY:
            raise UsageError("--tenant '*' is no tenant: leave --tenant out, for the batches of all")
        return BatchFilter(
            names=tuple(self.name or ()),
            tenant=self.tenant,
            states=tuple(one_of("--state", state, tuple(BatchState)) for state in self.state or ()),
            tags=tuple(check_tag(tag) for tag in self.tag or ()),
            since=None if self.since is None else since("--since", self.since, datetime.now(UTC)),
        )


@dataclass(frozen=True, kw_only=True)
class BatchSelection(FilterOptions):
    """The batches that a command is to change: named, or chosen by filters, or all."""

    batches: Annotated[
        list[str] | None, typer.Argument(metavar="BATCH", help="names or numbers of batches")
    ] = None
    tenant: Annotated[str | None, typer.Option(help="all of whose jobs are this tenant's")] = None
    all_: Annotated[bool, typer.Option("--all", help="all batches that this can be done to")] = False
    ended_before: Annotated[
        str | None, typer.Option("--ended-before", metavar="AGE", help="that ended this long ago: 30d, 12h")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False

    @property
    def is_one(self) -> bool:
        """Whether one batch is named, so that the answer is about that one alone."""
        return len(self.batches or ()) == 1

    @property
    def is_of_tenant(self) -> bool:
        """Whether a tenant is all that is asked for."""
        return self.tenant is not None and self.filter() == BatchFilter(tenant=self.tenant)

    def filter(self) -> BatchFilter:
        """Return what is asked for. Raises UsageError for a value that can't be."""
        age_s = seconds("--ended-before", self.ended_before, needs_unit=True)
        return replace(super().filter(), ended_before_s=age_s)

    def check(self) -> None:
        """Raise UsageError unless batches are named, or filters given, or --all, and only one of these."""
        ways = (bool(self.batches), self.all_, self.filter() != BatchFilter())
        if sum(ways) > 1:
            raise UsageError("either name batches, or choose them by filters such as --name, or say --all")
        if not any(ways):
            raise UsageError(
                "name one batch or several, or choose them: --name PATTERN, --tenant, --state, --tag, "
                "--ended-before AGE, --since AGE, or --all"
            )

    def choose(
        self, engine: Engine, can: Callable[[BatchStatus], bool], *, has_jobs: bool = False
    ) -> list[BatchStatus]:
        """Return the chosen batches: of those that are named, all; of filters and --all, those that `can` accepts.

        With `has_jobs`, filters leave out archived ones. Raises UsageError if a named batch isn't there.
        """
        if self.batches:
            return _named(engine, self.batches)
        note_unknown_tenant(engine, self.tenant)
        found = statuses(engine, replace(self.filter(), has_jobs=has_jobs))
        return self._of_tenant_alone([each for each in found if can(each)])

    def _of_tenant_alone(self, found: list[BatchStatus]) -> list[BatchStatus]:
        """Leave out batches that hold other tenants' jobs, too, which aren't meant by `--tenant`; they are told."""
        if self.tenant is None:
            return found
        shared = [each.name for each in found if each.tenants != [self.tenant]]
        if shared:
            note(
                f"left out, as they have jobs of other tenants, too: {some_of(shared, MOST_NAMED)}; "
                "name them if they are meant"
            )
        return [each for each in found if each.tenants == [self.tenant]]


def _named(engine: Engine, names: Sequence[str]) -> list[BatchStatus]:
    """Return the batches of these names and numbers, each once; UsageError tells all that aren't there."""
    found, wrong = dict[BatchId, BatchStatus](), list[str]()
    for name in names:
        try:
            batch = actions.status(engine, name)
            found[batch.id] = batch
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("; ".join(wrong))
    return list(found.values())


def batches_said(chosen: Sequence[BatchStatus]) -> str:
    """Return how many batches there are and their names, as in: 2 batches (red, blue)."""
    return (
        f"{plural(len(chosen), 'batch', 'batches')} ({some_of([each.name for each in chosen], MOST_NAMED)})"
    )
