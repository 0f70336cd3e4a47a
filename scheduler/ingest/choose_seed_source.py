"""Chooses what a batch's derived seeds depend on: the rows' ids if each has its own, else the rows' numbers."""

from jobs.errors import UsageError
from jobs.states import SeedSource
from scheduler.ingest.duplicate_detection import Repeated
from scheduler.ingest.submit_request import SubmitRequest


class UnfitIdsError(Exception):
    """Seeds can't be derived from the ids: a row has none, or its id is repeated."""

    def __init__(self, line: int | None, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem

    def explained(self, label: str) -> UsageError:
        """Return the error for a user who asked for seeds by id."""
        place = f"{label}, line {self.line}" if self.line else label
        return UsageError(
            f"{place}: {self.problem}; --set seed_from=id needs an id in every row, none of them twice: "
            "leave it out, or say --set seed_from=row"
        )


def refuse_unfit_ids(line_without_id: int | None, repeated: Repeated) -> None:
    """Raise UnfitIdsError if a row has no id, or one that is repeated."""
    if line_without_id is not None:
        raise UnfitIdsError(line_without_id, "has no id")
    if repeated.number:
        raise UnfitIdsError(next(iter(repeated.lines), None), "repeats the id of an earlier row")


def possible_sources(request: SubmitRequest) -> tuple[SeedSource, ...]:
    """Return the sources in the order in which they are to be tried; whether ids are fit is known at the end.

    Raises UsageError for seeds by id of a recipe whose rows share their seeds.
    """
    recipe = request.manifest.recipe
    is_given = "seed_from" not in request.policy.chosen()
    if recipe is None or not recipe.shares_seed:
        return (request.policy.seed_from,) if is_given else (SeedSource.ID, SeedSource.ROW)
    if is_given and request.policy.seed_from == SeedSource.ID:
        raise UsageError(
            f"--set seed_from=id: the rows of a prompt share their seeds in {request.manifest.label}; "
            "write share_seed: false there, or say --set seed_from=row"
        )
    return (SeedSource.ROW,)
