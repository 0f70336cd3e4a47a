"""Count the tokens of prompts with the model's own tokenizer, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from models.errors import CheckpointError
from models.store.resolve_checkpoint import Checkpoint

_CLIP_LIMIT = 77


@dataclass(frozen=True)
class TokenCounter:
    """Token counter; `limit` is the number of tokens of a prompt that the model reads, start and end included."""

    limit: int
    _tokenizer: Any

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """Load the tokenizer of `checkpoint`. Raises CheckpointError when it is missing or damaged."""
        from transformers import CLIPTokenizer  # noqa: PLC0415 - a second to import, and not every command needs it

        folder = checkpoint.folder / "tokenizer"
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # tokenizers raises plain exceptions
            raise CheckpointError(f"{folder}: the tokenizer can't be read: {error}") from error
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return cls(min(tokenizer.model_max_length, _CLIP_LIMIT), backend)

    def count(self, prompts: Sequence[str]) -> list[int]:
        """Count the tokens of each prompt, start and end included; above `limit`, the end of the prompt is ignored."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(prompts))]
