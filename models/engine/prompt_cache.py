"""Prompt embeddings, with a cache of the most recently used ones."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from models.engine.denoising_request import Conditions
from models.runtime import batch_invariant_cuda_convolutions
from models.runtime.padding_and_noise import moved

AT_ONCE = 4
KEPT = 512


class PromptEmbeddings:
    """A checkpoint's tokenizer and text encoder, with an LRU cache of embeddings.

    Prompts are encoded in batches of one fixed shape, so that an embedding does not depend on the other prompts in its
    batch; on devices where the position in a batch may affect the result, in batches of one.
    """

    def __init__(self, tokenizer: Any, encoder: Any, *, kept: int = KEPT) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._most = kept
        self._at_once = 1 if batch_invariant_cuda_convolutions.is_needed(encoder.device) else AT_ONCE
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of a prompt's conditions: one, the number of tokens and the width of an embedding."""
        return [(self._tokenizer.model_max_length, self._encoder.config.hidden_size)]

    def conditions(self, prompts: Sequence[str]) -> list[Conditions]:
        """Return what the UNet reads of each prompt: its embedding."""
        return [(embedding,) for embedding in self.embed(prompts)]

    def embed(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Return embeddings (tokens, width) of the prompts, each truncated to the tokenizer's limit."""
        found = {prompt: self._kept[prompt] for prompt in prompts if prompt in self._kept}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        found |= self._encoded(missing)
        for prompt in prompts:
            self._kept[prompt] = found[prompt]
            self._kept.move_to_end(prompt)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return [found[prompt] for prompt in prompts]

    def forget(self) -> None:
        """Clear the cache, so that every prompt is encoded again."""
        self._kept.clear()

    def _encoded(self, prompts: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for start in range(0, len(prompts), self._at_once):
            part = prompts[start : start + self._at_once]
            filled = [*part, *[""] * (self._at_once - len(part))]
            yield from zip(part, self._encode(filled), strict=False)

    def _encode(self, prompts: Sequence[str]) -> torch.Tensor:
        tokens = self._tokenizer(
            prompts,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = self._encoder.device
        takes_mask = getattr(self._encoder.config, "use_attention_mask", False)
        mask = moved(tokens.attention_mask, device) if takes_mask else None
        embeddings: torch.Tensor = self._encoder(moved(tokens.input_ids, device), attention_mask=mask)[0]
        return embeddings
