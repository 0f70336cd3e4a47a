"""Counts prompts that their model reads only in part."""

from jobs.manifest import Row
from models.catalogue.catalogue import Catalogue
from models.diffusion.token_counter import TokenCounter
from models.errors import CheckpointError, MissingPackagesError
from models.optional_packages import require
from models.store.resolve_checkpoint import resolve
from scheduler.ingest.dry_run_plan import Plan
from scheduler.ingest.duplicate_detection import SHOWN

_COUNTED_AT_ONCE = 200_000
"""Characters."""


class TruncatedPrompts:
    """Counts prompts and negative prompts that exceed their model's token limit, with the model's own tokenizer."""

    def __init__(self, catalogue: Catalogue, plan: Plan) -> None:
        self.catalogue = catalogue
        self.plan = plan
        self.counters: dict[str, TokenCounter | None] = {}
        self.waiting: dict[str, list[tuple[int, str, str]]] = {}
        self.characters = 0

    def add(self, row: Row) -> None:
        """Queue a row, whose texts are counted together with others."""
        negative = row.negative_prompt if row.guidance_scale > 1 else ""
        self.waiting.setdefault(row.model, []).append((row.line, row.prompt, negative))
        self.characters += len(row.prompt) + len(negative) + 1
        if self.characters > _COUNTED_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count the queued texts."""
        plan, waiting = self.plan, self.waiting
        self.waiting, self.characters = {}, 0
        for model, alike in waiting.items():
            counter = self._counter(model)
            if counter is None:
                continue
            long = _longer(counter, [(line, prompt) for line, prompt, _ in alike])
            plan.truncated += len(long)
            plan.truncated_lines += long[: SHOWN - len(plan.truncated_lines)]
            long = _longer(counter, [(line, negative) for line, _, negative in alike if negative])
            plan.truncated_negatives += len(long)
            plan.truncated_negative_lines += long[: SHOWN - len(plan.truncated_negative_lines)]

    def _counter(self, model: str) -> TokenCounter | None:
        if model not in self.counters:
            try:
                require("worker")
                checkpoint = resolve(self.catalogue.get(model), self.catalogue.models_dir)
                self.counters[model] = TokenCounter.load(checkpoint)
            except (CheckpointError, MissingPackagesError):
                self.counters[model] = None
                self.plan.tokens_unknown.append(model)
        return self.counters[model]


def _longer(counter: TokenCounter, texts: list[tuple[int, str]]) -> list[int]:
    """Return the lines of texts that exceed the token limit; repeated texts are counted once."""
    distinct = list({text: None for _, text in texts})
    tokens = dict(zip(distinct, counter.count(distinct), strict=True))
    return [line for line, text in texts if tokens[text] > counter.limit]
