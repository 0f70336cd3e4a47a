"""The CLIP score: how well a finished image matches its prompt."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch.nn.functional import cosine_similarity

from models.errors import CheckpointError, ModelError
from models.runtime.batch_invariant_cpu import make_batch_invariant
from models.runtime.cuda_graphs_and_streams import beside, own_stream
from models.runtime.device import Device, memory_errors
from models.runtime.library_logging import quiet
from models.runtime.padding_and_noise import padded
from models.store.resolve_checkpoint import Checkpoint
from models.store.vetting import check_whole

Pixels = npt.NDArray[np.uint8]

_UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
# Configurations written before 2023 have 2 here; CLIPTextModel then uses the position of the highest id as the end.
_OLD_END = 2


class ClipScorer:
    """A CLIP model on its device. It reads the centre square of an image and the prompt up to CLIP's token limit."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, device: Device) -> None:
        """Take transformers' CLIPModel in float32 with its image processor and its tokenizer.

        On devices that compute in half precision, images and prompts are embedded in float16, in which CLIP was
        trained; the cosines are computed in float32.
        """
        self._dtype = torch.float32 if device.dtype == torch.float32 else torch.float16
        self._limit = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
        self._model = model.to(device.name, self._dtype).eval()
        if device.name == "cpu":
            make_batch_invariant(self._model)
        self._processor = processor
        self._tokenizer = tokenizer
        self._device = device
        self._stream = own_stream(torch.device(device.name))

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: Device) -> Self:
        """Load it from local safetensors onto the device. Raises CheckpointError, OutOfMemoryError."""
        with memory_errors(device):
            try:
                parts = _from_files(checkpoint)
            except _UNLOADABLE as error:
                raise CheckpointError(f"{checkpoint.path}: can't be loaded as a CLIP: {error}") from error
            return cls(*parts, device)

    def score(self, images: Sequence[Pixels], prompts: Sequence[str]) -> list[float]:
        """Score (H, W, 3) uint8 RGB images of any sizes against one prompt each, from 0 to 100.

        The score is 100 * max(cosine, 0) of the two embeddings (Hessel et al. 2021, scaled as in torchmetrics).
        Computed in batches of one shape, so that a score doesn't depend on the rest of its batch. Raises ValueError if
        the numbers of prompts and images differ, ModelError if CLIP computes nothing usable, OutOfMemoryError.
        """
        scores: list[float] = []
        with torch.inference_mode(), memory_errors(self._device), beside(self._stream):
            for chunk in padded(list(zip(images, prompts, strict=True)), self._device.rows):
                images, texts = zip(*chunk.rows, strict=True)
                cosines = cosine_similarity(self._embed_images(images), self._embed_prompts(texts))
                scores += (100 * cosines.clamp(min=0)).tolist()[: chunk.real]
        if not np.isfinite(scores).all():
            raise ModelError("CLIP computed no number for a picture; score it on a device that has float32")
        return scores

    def _embed_images(self, images: Sequence[Pixels]) -> torch.Tensor:
        values = self._processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last"
        ).pixel_values
        features = self._model.get_image_features(pixel_values=values.to(self._device.name, self._dtype))
        return _embeddings(features)

    def _embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._limit, return_tensors="pt"
        ).input_ids
        # No attention mask: padding follows the prompt's end, which causal attention doesn't look past.
        return _embeddings(self._model.get_text_features(input_ids=tokens.to(self._device.name)))


def _embeddings(features: Any) -> torch.Tensor:
    projected: torch.Tensor = features.pooler_output
    return projected.float()


def _from_files(checkpoint: Checkpoint) -> tuple[Any, Any, Any]:
    path = checkpoint.path
    with quiet():
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer  # noqa: PLC0415 - slow to import

        model, report = CLIPModel.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
    check_whole(path, report)
    _check(path, model, tokenizer)
    return model, processor, tokenizer


def _check(path: object, model: Any, tokenizer: Any) -> None:
    """Check for a mismatched tokenizer or damaged weights, which would give meaningless scores without any error."""
    text = model.config.text_config
    if len(tokenizer) > text.vocab_size:
        raise CheckpointError(
            f"{path}: its tokenizer knows {len(tokenizer)} tokens, its text encoder {text.vocab_size}"
        )
    if text.eos_token_id not in (_OLD_END, tokenizer.eos_token_id):
        raise CheckpointError(
            f"{path}: its text encoder looks for token {text.eos_token_id} at the end of a prompt, its tokenizer "
            f"writes {tokenizer.eos_token_id}"
        )
    damaged = next((name for name, values in model.named_parameters() if not values.isfinite().all()), None)
    if damaged:
        raise CheckpointError(f"{path}: its {damaged} holds values that are not finite")
