"""Image classifiers as further safety checkers: any ViT or CLIP with a classification head, one score a label."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from models.errors import CheckpointError, SafetyUnknownError
from models.runtime.batch_invariant_cpu import make_batch_invariant
from models.runtime.cuda_graphs_and_streams import beside, own_stream
from models.runtime.device import Device, memory_errors
from models.runtime.library_logging import quiet
from models.runtime.padding_and_noise import moved, padded
from models.store.resolve_checkpoint import Checkpoint
from models.store.vetting import check_whole, read_config

Pixels = npt.NDArray[np.uint8]

_UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
_CLASSES = {
    "vit": ("ViTForImageClassification", "ViTImageProcessorPil"),
    "clip": ("CLIPForImageClassification", "CLIPImageProcessorPil"),
}
"""The classes of transformers that load a checkpoint, by the `model_type` of its configuration."""


class ImageClassifier:
    """A classifier on its device; `name` is the id of its card, `labels` are in the order of the checkpoint."""

    def __init__(
        self, model: Any, processor: Any, device: Device, name: str, digest: str | None = None
    ) -> None:
        """Take a classification model of transformers in float32 with its image processor.

        On devices that compute in half precision it computes in float16, and its scores in float32.
        """
        self.name, self.digest = name, digest
        self.labels = labels_of(model.config.id2label)
        self._is_multi_label = model.config.problem_type == "multi_label_classification"
        self._dtype = torch.float32 if device.dtype == torch.float32 else torch.float16
        self._model = model.to(device.name, self._dtype).eval()
        if device.name == "cpu":
            make_batch_invariant(self._model)
        self._processor, self._device = processor, device
        self._stream = own_stream(torch.device(device.name))

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: Device) -> Self:
        """Load it from local safetensors onto the device. Raises CheckpointError, OutOfMemoryError."""
        card, path = checkpoint.card, checkpoint.path
        with memory_errors(device):
            try:
                model, processor = _from_files(checkpoint)
            except _UNLOADABLE as error:
                raise CheckpointError(f"{path}: can't be loaded as an image classifier: {error}") from error
            classifier = cls(model, processor, device, card.id, checkpoint.digest)
        if classifier.labels != card.labels:
            raise CheckpointError(
                f"{path}: has the labels {', '.join(classifier.labels)}, but its card, {card.id!r}, says "
                f"{', '.join(card.labels)}"
            )
        return classifier

    def score(self, images: Sequence[Pixels]) -> list[dict[str, float]]:
        """Return for (H, W, 3) uint8 RGB images of any sizes each label's probability, from 0 to 1 with 3 decimals.

        Probabilities of all labels sum to 1, or each is by itself if the checkpoint says so (`problem_type`). Computed
        in batches of one shape, so that a score doesn't depend on the rest of its batch. Raises SafetyUnknownError if
        one isn't finite, OutOfMemoryError.
        """
        if not images:
            return []
        with torch.inference_mode(), memory_errors(self._device), beside(self._stream):
            chunks = padded(images, self._device.rows)
            logits = torch.cat([self._logits(chunk.rows)[: chunk.real] for chunk in chunks])
            scores = logits.sigmoid() if self._is_multi_label else logits.softmax(dim=1)
            rows = scores.cpu().numpy()
        if not np.isfinite(rows).all():
            raise SafetyUnknownError(
                f"{self.name} computed nothing usable for a picture, which must not leave; render it again, or on a "
                "device that computes in float32"
            )
        return [
            dict(zip(self.labels, (round(value, 3) for value in row), strict=True)) for row in rows.tolist()
        ]

    def _logits(self, images: Sequence[Pixels]) -> torch.Tensor:
        values = self._processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last"
        ).pixel_values
        logits: torch.Tensor = self._model(moved(values.to(self._dtype), self._device.name)).logits
        return logits.float()


def labels_of(id2label: Mapping[Any, str]) -> tuple[str, ...]:
    """Return the labels of a checkpoint's configuration in their order."""
    return tuple(id2label[number] for number in sorted(id2label, key=int))


def _from_files(checkpoint: Checkpoint) -> tuple[Any, Any]:
    path = checkpoint.path
    kind = read_config(path / "config.json").get("model_type")
    if kind not in _CLASSES:
        raise CheckpointError(f"{path}: is of the type {kind!r}; classifiers are {' or '.join(_CLASSES)}")
    with quiet():
        import transformers  # noqa: PLC0415 - slow to import

        model_class, processor_class = (getattr(transformers, name) for name in _CLASSES[kind])
        model, report = model_class.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = processor_class.from_pretrained(path, local_files_only=True)
    check_whole(path, report)
    damaged = next((name for name, values in model.named_parameters() if not values.isfinite().all()), None)
    if damaged:
        raise CheckpointError(f"{path}: its {damaged} holds values that are not finite")
    return model, processor
