"""The terms that the prompts of a lane must not hold: those of the installation, and those of the lane's tenant."""

from functools import lru_cache

from sqlalchemy import Engine

from jobs.job_dataclasses import LaneId
from jobs.queue.tenants import tenant_of_lane
from models.assess.prompt_filter import PromptTerms


class LanePromptTerms:
    """The terms as they were when `refresh` was called last; the tenant has none before that."""

    def __init__(self, common: PromptTerms) -> None:
        """Take the terms of the installation."""
        self._common = common
        self._tenant = ""
        self._own: PromptTerms | None = None

    def refresh(self, engine: Engine, lane: LaneId) -> None:
        """Read the terms of the lane's tenant again; called before each claim, so that no job needs a query."""
        self._tenant, text = tenant_of_lane(engine, lane)
        self._own = None if text is None else _parsed(text, self._tenant)

    def find(self, prompt: str) -> str | None:
        """Return what a prompt holds that it must not, with the term as it is listed, or None. Thread-safe."""
        if found := self._common.find(prompt):
            return f"prompt holds {found}"
        own, tenant = self._own, self._tenant
        if own and (found := own.find(prompt)):
            return f"prompt holds {found}, a term of tenant {tenant!r}"
        return None


@lru_cache(maxsize=64)
def _parsed(text: str, tenant: str) -> PromptTerms:
    return PromptTerms.parse(text, f"the terms of tenant {tenant!r}")
