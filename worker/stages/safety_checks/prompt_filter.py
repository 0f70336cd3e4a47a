"""Prompt filter: count prompt tokens, and block or flag prompts that contain a listed term."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.states import WITHHOLDING, ErrorKind
from worker.item import PipelineItem
from worker.stage import Place, Stage

if TYPE_CHECKING:
    from models.diffusion.token_counter import TokenCounter


class PromptFilter(Stage):
    """Counts tokens and looks for the terms of the prompt filter; `safety` decides whether a prompt is blocked."""

    name = "prompt_filter"
    place = Place.DEVICE

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their token counts, ended or flagged where a term was found."""
        counter = self.context.lane_models.tokens
        tokens = counter.count([item.job.prompt for item in items])
        long = _longer({_negative(item) for item in items}, counter)
        return [
            self._filtered(
                replace(
                    item,
                    prompt_tokens=count,
                    prompt_truncated=count > counter.limit or _negative(item) in long,
                )
            )
            for item, count in zip(items, tokens, strict=True)
        ]

    def _filtered(self, item: PipelineItem) -> PipelineItem:
        found = self.context.prompt_terms.find(item.job.prompt)
        if found is None:
            return item
        if self.context.lane.policy.safety in WITHHOLDING:
            return item.ended(ErrorKind.SAFETY, found, is_block=True)
        return replace(item, prompt_finding=found, flagged_for=found)


def _negative(item: PipelineItem) -> str:
    """Return the negative prompt, or "" where the guidance scale makes it unused."""
    return item.job.negative_prompt if item.job.guidance_scale > 1 else ""


def _longer(texts: set[str], counter: "TokenCounter") -> set[str]:
    """Return the texts with more tokens than the model reads."""
    given = sorted(texts - {""})
    counts = counter.count(given) if given else []
    return {text for text, count in zip(given, counts, strict=True) if count > counter.limit}
