"""How many tokens a prompt has, counted as the model's own tokenizer does, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from models.errors import CheckpointError
from models.store.checkpoint import Checkpoint

_CLIP_LIMIT = 77


@dataclass(frozen=True)
class TokenCounter:
    """`limit` is the number of tokens that the model reads of a prompt, start and end included."""

    limit: int
    _tokenizer: Any

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """Reads the tokenizer of `checkpoint`. Raises CheckpointError when it is missing or damaged."""
        from transformers import CLIPTokenizer  # noqa: PLC0415 - a second to import, and not every command counts

        folder = checkpoint.folder / "tokenizer"
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # what tokenizers raise has no class of its own
            raise CheckpointError(f"{folder}: the tokenizer can't be read: {error}") from error
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return cls(min(tokenizer.model_max_length, _CLIP_LIMIT), backend)

    def count(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end included; more than `limit` means that the end is not read."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(prompts))]
