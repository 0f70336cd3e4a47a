"""The prompt filter of an installation with several tenants: terms for everybody, and further ones of tenants."""

from collections.abc import Mapping

from models.assess.prompt_filter import FoundTerm, PromptTerms


class PromptTermsByTenant:
    """Terms that nobody's prompts must hold, and those that one tenant's prompts must not."""

    def __init__(self, common: PromptTerms, of_tenants: Mapping[str, str]) -> None:
        """Take everybody's terms, and the text of each tenant's own by its name."""
        self._common = common
        self._own = {
            name: PromptTerms.parse(text, f"the terms of tenant {name!r}")
            for name, text in of_tenants.items()
        }

    def find(self, prompt: str, tenant: str) -> FoundTerm | None:
        """Return a term that a tenant's prompt must not hold and does, or None."""
        own = self._own.get(tenant)
        return self._common.find(prompt) or (own.find(prompt) if own else None)
